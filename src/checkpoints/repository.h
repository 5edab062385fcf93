#pragma once
// Sources that are repositories on the Hugging Face Hub.
#include "hub/snapshot.h"

namespace lora {

// For messages about a source that is nowhere.
inline constexpr const char* kRepositoryForm = "a repository on the Hub is \"owner/name\"";

bool is_pickle(const std::filesystem::path& file);
// Whether a name ends as those of weight files do.
bool is_weight_file(const std::filesystem::path& file);

// Whether a source is a repository: it reads "owner/name", and there is no file or folder of that name, nor one that
// was mistyped.
bool is_repository(const std::filesystem::path& source);

// A repository at the revision that the options say, and the names of its files. Throws as hf_hub_download() does; the
// message says too that nothing here has the name.
struct Repository {
  Repository(const std::string& id, const HubOptions& options);

  std::string repo_id;
  Snapshot snapshot;
  std::vector<std::string> files;
  std::string label;  // "owner/name@" and the beginning of the commit; "… in the cache" where the rest is not known
};

// Those of the names that begin with `folder` ("" or "name/"), without it.
std::vector<std::string> names_below(const std::vector<std::string>& names, const std::string& folder);

}  // namespace lora
