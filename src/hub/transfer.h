#pragma once
// Downloads one blob into a file.
#include "hub/protocol.h"

namespace lora {

struct Blob {
  HubPlace place;  // its revision is a commit
  std::string etag;
  std::optional<uint64_t> size;
};

// Continues after the bytes that `file` has, or starts `anew`. When it returns, the file is whole and synced. Its
// digest is the one in the etag, if the etag is a digest. Throws HubFailure, and Error{bad_file, io, cancelled}. After
// a broken connection, the file keeps the bytes that came.
void transfer(HubClient& client, Meter& meter, const Blob& blob, const std::filesystem::path& file, bool anew);

}  // namespace lora
