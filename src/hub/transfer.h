#pragma once
// One blob from the Hub to a file.
#include "hub/protocol.h"

namespace lora {

struct Blob {
  HubPlace place;  // at its commit
  std::string etag;
  std::optional<uint64_t> size;
};

// Goes on from what `file` holds, or `anew`. When it returns, the file is whole, has the digest that its etag says, and
// is on disk. Throws HubFailure, and Error{bad_file, io, cancelled}; what came before the connection broke off stays in
// the file.
void transfer(HubClient& client, Meter& meter, const Blob& blob, const std::filesystem::path& file, bool anew);

}  // namespace lora
