#pragma once
// Downloads a pipeline's files from a repository on the Hugging Face Hub: only those that it needs.
#include <nlohmann/json.hpp>

#include "checkpoints/repository.h"

namespace lora {

// Downloads model_index.json and returns its folder in the cache. Throws Error{not_found} for a repository without one.
std::filesystem::path fetch_index(Repository& repository);

// Downloads the files of these models, which map components to classes, and of the tokenizers and the scheduler.
// `variants` maps components to variants; others have none. `given` are text encoders of the caller's: only their
// tokenizers are downloaded, if there are any. Throws Error{not_found} for a missing file before it downloads weights.
void fetch_components(Repository& repository, const std::map<std::string, std::string>& models,
                      const std::map<std::string, std::string>& variants,
                      const std::map<std::string, std::filesystem::path>& given);

}  // namespace lora
