#pragma once
// A pipeline's files in a repository on the Hugging Face Hub: those that are needed, and no others.
#include <nlohmann/json.hpp>

#include "checkpoints/repository.h"

namespace lora {

// Brings model_index.json into the cache; the folder that it is in. Throws Error{not_found} for repositories of other
// things.
std::filesystem::path fetch_index(Repository& repository);

// Brings what these models (components to their classes) are opened from, and the tokenizers and the scheduler beside
// them. What is missing is an error before the weights come.
void fetch_components(Repository& repository, const std::map<std::string, std::string>& models,
                      const std::string& variant);

}  // namespace lora
