#pragma once
// Files of repositories on the Hugging Face Hub, in the cache on disk that huggingface_hub uses: what Python downloaded
// is found here, and the other way round. Names, defaults and environment variables are huggingface_hub's.
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace lora {

// The token that a call sends to the Hub, and to nobody else.
class HubToken {
 public:
  enum class Use {
    if_any,  // the stored login, where there is one and HF_HUB_DISABLE_IMPLICIT_TOKEN does not say otherwise
    stored,  // the stored login; without one, Error{forbidden}
    none,
    given,
  };
  HubToken() = default;
  HubToken(bool stored) : use_(stored ? Use::stored : Use::none) {}
  HubToken(const char* text) : use_(Use::given), text_(text) {}
  HubToken(std::string text) : use_(Use::given), text_(std::move(text)) {}

  Use use() const { return use_; }
  const std::string& text() const { return text_; }

 private:
  Use use_ = Use::if_any;
  std::string text_;
};

// How far a call's downloads are, all files together. Sizes grow as they become known.
struct HubProgress {
  std::string repo_id, file;  // the file that came last
  uint64_t bytes = 0, total_bytes = 0;
  size_t files = 0, total_files = 0;
};

// The environment decides what is left out:
//   HF_ENDPOINT                        the server, https://huggingface.co
//   HF_HOME                            ~/.cache/huggingface ($XDG_CACHE_HOME/huggingface); holds the cache and the
//   login HF_HUB_CACHE                       $HF_HOME/hub HF_TOKEN, HF_TOKEN_PATH            the stored login: a token,
//   or the file that holds one, $HF_HOME/token HF_HUB_OFFLINE                     1: no network HF_HUB_ETAG_TIMEOUT,
//   HF_HUB_DOWNLOAD_TIMEOUT    seconds without an answer, or without a byte: 10 HF_HUB_DISABLE_SYMLINKS            1:
//   copies in place of links HTTPS_PROXY, http_proxy, ALL_PROXY, NO_PROXY    as curl reads them SSL_CERT_FILE,
//   REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE    certificates to trust in place of the system's
struct HubOptions {
  std::filesystem::path cache_dir;
  bool force_download = false;  // downloads again what the cache has
  // By scheme and host ("https://host"), scheme ("https") or "all", the first that there is; none: the environment's.
  std::map<std::string, std::string> proxies;
  std::optional<bool> local_files_only;  // true: the cache alone, no network
  HubToken token;
  std::string revision;  // a branch, a tag or a commit; none: main
  // Called from several threads, one at a time. False ends the call with Error{cancelled}; what came is kept, and the
  // next call goes on from there.
  std::function<bool(const HubProgress&)> progress;
};

// Whether a text has the form "owner/name".
bool is_repo_id(const std::string& text);

// Threads: any number of threads and processes may call these at once, for one cache too; locks in its folder keep them
// apart.
//
// Calls that download throw Error{not_found} for a repository, revision or file that the Hub has not (offline: the
// cache), Error{forbidden} for what it does not show without another token, Error{network} where it cannot be reached
// and the cache does not have it either, Error{bad_file} where what came is not what was announced (size, digest,
// a web page, a name that leads out of the repository), Error{io} where the disk is full or refuses, Error{cancelled},
// Error{usage} for malformed ids. A file is in the cache whole and verified, or not at all.

// One file, "name" or "folder/name"; the path of it in the cache. A commit's file that the cache has needs no network,
// and neither does a branch's where the Hub cannot be reached.
std::filesystem::path hf_hub_download(const std::string& repo_id, const std::string& filename,
                                      const HubOptions& options = {});

// Which files: those that match one of allow_patterns, where there are any, and none of ignore_patterns. As fnmatch:
// `*` matches slashes too, and a pattern that ends in a slash is all that is below.
struct FilePatterns {
  std::vector<std::string> allow_patterns, ignore_patterns;
};

// A revision's files, several at a time; the folder that has them.
std::filesystem::path snapshot_download(const std::string& repo_id, const FilePatterns& patterns = {},
                                        const HubOptions& options = {});

// What a cache holds.
struct CachedFile {
  std::string name;            // in the repository
  std::filesystem::path path;  // in the snapshot
  std::filesystem::path blob;  // where the bytes are; the path itself where it is no link
  uint64_t size_on_disk = 0;
};
struct CachedRevision {
  std::string commit_hash;
  std::vector<std::string> refs;  // the branches and tags that are at it
  std::vector<CachedFile> files;
  std::filesystem::path path;
  uint64_t size_on_disk = 0;  // a blob that several files share counts once, here and below
};
struct CachedRepo {
  std::string repo_id, repo_type;  // "model", "dataset", …
  std::filesystem::path path;
  std::vector<CachedRevision> revisions;
  uint64_t size_on_disk = 0, incomplete_size = 0;  // the latter: of downloads that broke off
  size_t nb_files = 0;                             // blobs
};
struct CacheInfo {
  std::filesystem::path cache_dir;
  std::vector<CachedRepo> repos;      // by name
  std::vector<std::string> warnings;  // what is no repository, and what is broken in one
  uint64_t size_on_disk = 0;

  std::string json() const;
};

// Throws Error{not_found} where there is no such folder.
CacheInfo scan_cache_dir(const std::filesystem::path& cache_dir = {});

// Compares every file with the digest that the Hub gave for it; the problems, in words. `files_checked` counts.
struct CacheVerification {
  size_t files_checked = 0;
  std::vector<std::string> problems, unknown;  // unknown: files with no digest to compare with
};
CacheVerification verify_cache(const CachedRepo& repo, const std::function<bool(const HubProgress&)>& progress = {});

// Removes a repository, or the revisions of it with these commits and what no other revision uses. Returns the bytes
// that it freed. Throws Error{not_found} for a commit that is not there, Error{io}.
uint64_t remove_from_cache(const CacheInfo& cache, const CachedRepo& repo,
                           const std::vector<std::string>& commit_hashes = {});

}  // namespace lora
