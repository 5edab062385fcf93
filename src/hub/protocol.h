#pragma once
// The Hub's protocol: asks for the commit of a revision, its list of files, and single files.
#include <optional>
#include <string>
#include <vector>

#include "hub/failure.h"
#include "hub/http.h"
#include "hub/meter.h"

namespace lora {

// A repository, a revision and perhaps a file, for addresses and messages.
struct HubPlace {
  std::string repo_id, revision, file = "";

  // For messages: "owner/name at v1: config.json".
  std::string label() const;
};

// A file in the Hub's list of a commit's files.
struct HubFile {
  std::string name;
  uint64_t size = 0;
  std::string blob_id;     // the blob's name in git; of a large file, the name of the pointer to it
  std::string lfs_sha256;  // of a large file (LFS), else ""
  uint64_t lfs_size = 0;
  std::string xet_hash;

  // The blob's name in the cache: the SHA-256 of a large file, the name in git of another.
  const std::string& etag() const { return lfs_sha256.empty() ? blob_id : lfs_sha256; }
  uint64_t bytes() const { return lfs_sha256.empty() ? size : lfs_size; }
};

// The Hub's answer about one file.
struct HubMetadata {
  std::string etag, commit;
  std::optional<uint64_t> size;
};

// One thread's connection to the Hub. Calls throw HubFailure. If `patient`, they first retry temporary failures, with
// growing waits. Callers that can use the cache are not patient.
class HubClient {
 public:
  HubClient(const HubSettings& settings, Meter& meter) : settings_(settings), meter_(meter), http_(settings) {}

  std::string commit_of(const HubPlace& place, bool patient);
  std::vector<HubFile> list(const HubPlace& place, bool patient);
  HubMetadata metadata(const HubPlace& place, bool patient);
  // Asks once for the bytes of a file from position `from` on. `begin` is that of Http::get().
  void get(const HubPlace& place, uint64_t from, const Http::Begin& begin);

  // Retries `work`. Stops after success, after a permanent failure, or after `attempts` failures in a row without
  // progress. `advanced` returns whether the last attempt made progress.
  void with_patience(int attempts, const std::function<void()>& work, const std::function<bool()>& advanced = {});

 private:
  const HubSettings& settings_;
  Meter& meter_;
  Http http_;

  HttpRequest request(const HubPlace& place, const std::string& url, int timeout) const;
  std::string file_url(const HubPlace& place) const;
  HttpAnswer get_json(const HubPlace& place, const std::string& url, bool patient);
  // Throws HubFailure unless the status is 2xx.
  void check_answer(const HttpAnswer& answer, const HubPlace& place) const;
};

}  // namespace lora
