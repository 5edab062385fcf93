#pragma once
// A VAE on its own, which replaces the one of a model.
#include <filesystem>
#include <nlohmann/json.hpp>

#include "checkpoints/component_files.h"

namespace lora {

// What a VAE must fit.
struct VaeFamily {
  std::string_view pipeline;  // the class that runs the model
  std::string model;          // the model's name, for messages
  int64_t latent_channels = 4;
  nlohmann::json own;  // the config of the model's own VAE; null where the model has none
};

// Opens one of:
// - a diffusers folder with config.json and weights, of the variant if it has that;
// - a file with the names of diffusers, or with those of the original publishers, as they are or in a whole checkpoint.
//   Tensors give the sizes of its config. The rest is as in the model's own VAE, or else as in the family's.
// Adds a note of the tensors that are no part of a VAE. Throws Error{not_found, bad_file, bad_key}. Throws
// Error{unsupported} for what is not a VAE, or is one of another family: its number of latent channels or its
// scaling_factor differs.
Checkpoint open_vae(const std::filesystem::path& path, const VaeFamily& family, const std::string& variant,
                    std::vector<std::string>& notes);

}  // namespace lora
