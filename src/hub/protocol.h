#pragma once
// The Hub's addresses and answers: what a revision is, which files it has, what a file is.
#include <optional>
#include <string>
#include <vector>

#include "hub/failure.h"
#include "hub/http.h"
#include "hub/meter.h"

namespace lora {

// A repository at a revision, and a file in it, for addresses and messages.
struct HubPlace {
  std::string repo_id, revision, file = "";

  std::string label() const;
};

// A file as the Hub lists it at a commit. Its etag names its blob in the cache: the SHA-256 of large files (LFS), the
// name in git of others.
struct HubFile {
  std::string name;
  uint64_t size = 0;
  std::string blob_id;  // in git; of a large file, of what points to it
  std::string lfs_sha256;
  uint64_t lfs_size = 0;
  std::string xet_hash;

  const std::string& etag() const { return lfs_sha256.empty() ? blob_id : lfs_sha256; }
  uint64_t bytes() const { return lfs_sha256.empty() ? size : lfs_size; }
};

// What the Hub says of one file.
struct HubMetadata {
  std::string etag, commit;
  std::optional<uint64_t> size;
};

// One thread's connection to the Hub. Calls throw HubFailure; what may pass is tried again, with growing waits, unless
// `patient` is false: where the cache has something to go on with.
class HubClient {
 public:
  HubClient(const HubSettings& settings, Meter& meter) : settings_(settings), meter_(meter), http_(settings) {}

  std::string commit_of(const HubPlace& place, bool patient);
  std::vector<HubFile> list(const HubPlace& place, bool patient);
  HubMetadata metadata(const HubPlace& place, bool patient);
  // Bytes of a file, from `from` on, once. `begin` as Http::get's.
  void get(const HubPlace& place, uint64_t from, const Http::Begin& begin);

  // Does it until it works, the failure is none that passes, or `attempts` failed one after the other since `advanced`
  // last said that something came.
  void with_patience(int attempts, const std::function<void()>& work, const std::function<bool()>& advanced = {});

 private:
  const HubSettings& settings_;
  Meter& meter_;
  Http http_;

  HttpRequest request(const HubPlace& place, const std::string& url, int timeout) const;
  std::string file_url(const HubPlace& place) const;
  HttpAnswer get_json(const HubPlace& place, const std::string& url, bool patient);
  void check_answer(const HttpAnswer& answer, const HubPlace& place) const;  // 2xx
};

}  // namespace lora
