#pragma once
// Sources that are repositories on the Hugging Face Hub.
#include "hub/snapshot.h"

namespace lora {

// For messages about a path where nothing is.
inline constexpr const char* kRepositoryForm = "a repository on the Hub is \"owner/name\"";

// By the ending of a name. Capitals do not matter.
bool is_pickle(const std::filesystem::path& file);
bool is_safetensors(const std::filesystem::path& file);
// Whether a name ends as those of weight files do.
bool is_weight_file(const std::filesystem::path& file);

// Whether a text is the id of a repository, not a path: it has the form "owner/name" and does not end as weight files
// do, and neither "owner/name" nor a folder "owner" exists here.
bool is_repository(const std::filesystem::path& source);
// For the message about a path where nothing is: how to name a repository, and why the Hub was not asked for this one.
std::string why_only_a_path(const std::filesystem::path& source);

// A repository at the revision that the options say, and the names of its files. Throws as hf_hub_download() does.
// Where is_repository() chose the Hub, the message also says that no file or folder here has the name.
struct Repository {
  Repository(const std::string& id, const HubOptions& options);

  std::string repo_id;
  Snapshot snapshot;
  std::vector<std::string> files;
  // "owner/name@" and the beginning of the commit. " in the cache" follows where the Hub did not list the files.
  std::string label;
};

// The names that begin with `folder` ("" or "name/"), without it.
std::vector<std::string> names_below(const std::vector<std::string>& names, const std::string& folder);

}  // namespace lora
