// verify_cache: compares files with the digests that the Hub gave for them.
#include <fcntl.h>
#include <unistd.h>

#include <map>

#include "core/edge.h"
#include "hub/meter.h"
#include "hub/names.h"
#include "hub/repo_cache.h"
#include "io/digest.h"

namespace lora {

namespace fs = std::filesystem;

namespace {

// The digest of a file, or "" if it cannot be read.
std::string digest_of(const fs::path& file, Digest& digest, const std::string& prefix, Meter& meter) {
  constexpr size_t kPiece = 1 << 20;
  int fd = ::open(file.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return "";
  digest.add(prefix.data(), prefix.size());
  std::string bytes(kPiece, '\0');
  ssize_t read = 0;
  while ((read = ::read(fd, bytes.data(), bytes.size())) > 0) {
    digest.add(bytes.data(), size_t(read));
    meter.add(file.filename().string(), read);
    if (meter.stopped()) break;
  }
  ::close(fd);
  meter.check_stop();
  return read < 0 ? "" : digest.digits();
}

// The digest that a file should have, or "" if it is unknown: the blob's name, or for a copy, the list's entry.
std::string wanted_digest(const CachedFile& file, const std::map<std::string, std::string>& listed) {
  auto name = file.blob.filename().string();
  if (file.blob != file.path && (is_sha1(name) || is_sha256(name))) return name;
  auto found = listed.find(file.name);
  return found == listed.end() ? "" : found->second;
}

}  // namespace

CacheVerification verify_cache(const CachedRepo& repo, const std::function<bool(const HubProgress&)>& progress) {
  return edge([&] {
    CacheVerification result;
    Meter meter(progress, repo.repo_id);
    meter.expect_bytes(repo.size_on_disk);
    meter.expect_files(repo.nb_files);
    std::map<fs::path, std::string> problems;  // by blob: the loop reads each blob once
    for (const auto& revision : repo.revisions) {
      std::map<std::string, std::string> listed;
      if (repo.repo_type == "model")
        for (const auto& file : RepoCache(repo.path.parent_path(), repo.repo_id)
                                    .list(revision.commit_hash)
                                    .value_or(std::vector<HubFile>()))
          listed[file.name] = file.etag();
      for (const auto& file : revision.files) {
        auto label = fmt::format("{} at {}: {}", repo.repo_id, revision.commit_hash, file.name);
        auto wanted = wanted_digest(file, listed);
        if (wanted.empty()) {
          result.unknown.push_back(label);
          continue;
        }
        ++result.files_checked;
        auto [known, is_new] = problems.try_emplace(file.blob);
        if (is_new) {
          Sha256 sha256;
          Sha1 sha1;
          bool in_git = is_sha1(wanted);
          auto prefix = in_git ? fmt::format("blob {}", file.size_on_disk) + '\0' : "";
          auto digest = digest_of(file.blob, in_git ? static_cast<Digest&>(sha1) : sha256, prefix, meter);
          if (digest.empty()) known->second = "cannot be read";
          if (!digest.empty() && digest != wanted)
            known->second = fmt::format("has the digest {}, not {}", digest, wanted);
          meter.file_done(file.name);
        }
        if (!known->second.empty()) result.problems.push_back(fmt::format("{} {}", label, known->second));
      }
    }
    return result;
  });
}

}  // namespace lora
