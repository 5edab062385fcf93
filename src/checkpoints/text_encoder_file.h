#pragma once
// A text encoder on its own, which replaces the one of a model.
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>

#include "checkpoints/component_files.h"

namespace lora {

// The component of a name: "text_encoder" for "clip_l", "text_encoder_2" for "clip_g", "text_encoder_3" for "t5xxl",
// and the components themselves. "" for another name.
std::string text_encoder_component(std::string_view name);

// What a text encoder must fit.
struct TextEncoderFamily {
  std::string component, class_name;  // "text_encoder_3", "T5EncoderModel"
  std::string_view pipeline;          // the class that runs the model
  std::string model;                  // the model's name, for messages
  nlohmann::json own;                 // the config of the model's own text encoder; null where the model has none
};

// Opens one of:
// - a folder of transformers with config.json and weights, of the variant if it has that;
// - a file with the names of transformers or, for CLIP, with those of OpenCLIP. Tensors give the sizes of its config.
//   The rest is as in the model's own text encoder, or else as in the family's published one. For Stable Diffusion 3,
//   the first text encoder gets the identity as its projection, as in single-file checkpoints.
// Adds a note of the tensors that are no part of a text encoder. Throws Error{not_found, bad_file, bad_key}. Throws
// Error{unsupported} for what is no such text encoder, and for one of another shape than the model's own.
Checkpoint open_text_encoder(const std::filesystem::path& path, const TextEncoderFamily& family,
                             const std::string& variant, std::vector<std::string>& notes);

// Throws Error{unsupported} where the text encoders together do not give what the denoiser reads. `configs` has those
// of all text encoders of the model, by component.
void check_text_encoders_fit(const std::map<std::string, nlohmann::json>& configs, const nlohmann::json& denoiser,
                             std::string_view pipeline, const std::string& model);

}  // namespace lora
