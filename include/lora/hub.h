#pragma once
// Downloads files of repositories on the Hugging Face Hub into a cache on disk. The cache is the one of
// huggingface_hub: each finds what the other downloaded. Names, defaults and environment variables are those of
// huggingface_hub.
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace lora {

// The token that a call sends to the Hub. A call never sends it to another server.
class HubToken {
 public:
  enum class Use {
    if_any,  // the stored login if it exists; no token if HF_HUB_DISABLE_IMPLICIT_TOKEN is set
    stored,  // the stored login; Error{forbidden} if it does not exist
    none,    // no token
    given,   // text()
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

// The progress of a call's downloads, summed over its files. Totals grow while the call learns about more files.
struct HubProgress {
  std::string repo_id, file;  // file: the one that made progress last
  uint64_t bytes = 0, total_bytes = 0;
  size_t files = 0, total_files = 0;
};

// clang-format off
// Environment variables, read at each call:
//   HF_ENDPOINT                    the server; https://huggingface.co by default
//   HF_HOME                        the folder of the cache and the login; by default $XDG_CACHE_HOME/huggingface, or
//                                  ~/.cache/huggingface if XDG_CACHE_HOME is not set
//   HF_HUB_CACHE                   the cache; $HF_HOME/hub by default
//   HF_TOKEN                       the stored login: a token
//   HF_TOKEN_PATH                  the file with the stored login, if HF_TOKEN is not set; $HF_HOME/token by default
//   HF_HUB_DISABLE_IMPLICIT_TOKEN  1: calls use the stored login only if token = true
//   HF_HUB_OFFLINE                 1: no network
//   HF_HUB_ETAG_TIMEOUT            seconds to wait for an answer about a revision or file; 10 by default
//   HF_HUB_DOWNLOAD_TIMEOUT        seconds to wait for the next byte of a file; 10 by default
//   HF_HUB_DISABLE_SYMLINKS        1: copies in place of symbolic links
//   HTTPS_PROXY, http_proxy, ALL_PROXY, NO_PROXY
//                                  the proxies, as curl reads them
//   SSL_CERT_FILE, REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE
//                                  the certificates to trust in place of the system's; the first variable that is set
// clang-format on
struct HubOptions {
  std::filesystem::path cache_dir;  // empty: HF_HUB_CACHE
  bool force_download = false;      // true: downloads also what the cache has
  // Keys are "https://host", "https", "all://host" or "all"; the first of these that exists counts. Without such a key,
  // the environment's proxy counts.
  std::map<std::string, std::string> proxies;
  std::optional<bool> local_files_only;  // true: only the cache, no network; empty: HF_HUB_OFFLINE
  HubToken token;
  std::string revision;  // a branch, a tag or a commit; empty: main
  // Called from several threads, but never from two at the same time. If it returns false, the call ends with
  // Error{cancelled}. The bytes that came are kept, and the next call continues after them.
  std::function<bool(const HubProgress&)> progress;
};

// Whether a text has the form "owner/name".
bool is_repo_id(std::string_view text);

// Threads: any number of threads and processes may make these calls at the same time, also for the same cache. Locks in
// the cache's folder keep them apart.
//
// clang-format off
// Calls that download throw:
//   Error{not_found}   the Hub does not have the repository, revision or file; offline: the cache does not have it
//   Error{forbidden}   the Hub wants a token, or a different one
//   Error{network}     the Hub is unreachable, and the cache does not have it either
//   Error{bad_file}    the size or digest is wrong, a web page came, or a name leads out of the repository
//   Error{io}          the disk is full, or the system refuses to write
//   Error{cancelled}   `progress` returned false
//   Error{usage}       an id, revision or token is malformed, or the call is offline with force_download
// clang-format on
// A call puts a file into the cache only after it has all bytes and has compared their digest.

// Downloads one file, "name" or "folder/name", and returns its path in the cache. If the cache has the file of a
// commit, the call does not use the network. If the cache has the file of a branch and the Hub is unreachable, the call
// returns the cached file.
std::filesystem::path hf_hub_download(const std::string& repo_id, const std::string& filename,
                                      const HubOptions& options = {});

// Several files of one revision, downloaded at the same time. Returns the folder in the cache that has them. Throws
// Error{not_found} with the nearest name for a file that the revision does not have; nothing is downloaded then.
std::filesystem::path hf_hub_download_files(const std::string& repo_id, const std::vector<std::string>& filenames,
                                            const HubOptions& options = {});

// Chooses files: those that match one of allow_patterns (all files if it is empty) and none of ignore_patterns.
// Patterns are those of fnmatch: `*` also matches slashes. A pattern that ends in a slash stands for everything below
// that folder.
struct FilePatterns {
  std::vector<std::string> allow_patterns, ignore_patterns;
};

// Downloads the files of a revision, several at a time, and returns the folder in the cache that has them. Throws
// Error{not_found} if no file matches the patterns.
std::filesystem::path snapshot_download(const std::string& repo_id, const FilePatterns& patterns = {},
                                        const HubOptions& options = {});

// The content of a cache.
struct CachedFile {
  std::string name;            // in the repository
  std::filesystem::path path;  // in the snapshot
  std::filesystem::path blob;  // the file that has the bytes; equal to `path` if that is not a symbolic link
  uint64_t size_on_disk = 0;
};
struct CachedRevision {
  std::string commit_hash;
  std::vector<std::string> refs;  // the branches and tags that point to this commit
  std::vector<CachedFile> files;
  std::filesystem::path path;
  uint64_t size_on_disk = 0;  // counts each blob once, also if several files share it; the same below
};
struct CachedRepo {
  std::string repo_id, repo_type;  // repo_type: "model", "dataset", …
  std::filesystem::path path;
  std::vector<CachedRevision> revisions;
  uint64_t size_on_disk = 0;
  uint64_t incomplete_size = 0;  // of downloads that did not finish
  size_t nb_files = 0;           // the number of blobs
};
struct CacheInfo {
  std::filesystem::path cache_dir;
  std::vector<CachedRepo> repos;      // ordered by type, then by name
  std::vector<std::string> warnings;  // entries that are not repositories, and broken parts of repositories
  uint64_t size_on_disk = 0;

  std::string json() const;
  // The repositories of that id, one of each type; pointers into `repos`. Throws Error{not_found} with the nearest id.
  std::vector<const CachedRepo*> find(const std::string& repo_id) const;
};

// Lists the cache; an empty `cache_dir` stands for HF_HUB_CACHE. Throws Error{not_found} if the folder does not exist.
CacheInfo scan_cache_dir(const std::filesystem::path& cache_dir = {});

// The result of verify_cache().
struct CacheVerification {
  size_t files_checked = 0;
  std::vector<std::string> problems;  // a message for each damaged file
  std::vector<std::string> unknown;   // files whose digest the cache does not know
};
// Compares each file with the digest that the Hub gave for it. Throws Error{cancelled} if `progress` returns false.
CacheVerification verify_cache(const CachedRepo& repo, const std::function<bool(const HubProgress&)>& progress = {});

// Removes the revisions with these commits and the blobs that no other revision uses. Without commits, removes the
// whole repository. Returns the number of bytes that it freed. Throws Error{not_found} if the cache does not have a
// commit, and Error{io}.
uint64_t remove_from_cache(const CacheInfo& cache, const CachedRepo& repo,
                           const std::vector<std::string>& commit_hashes = {});

}  // namespace lora
