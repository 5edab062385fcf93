#pragma once
// The config.json of a CLIP text encoder.
#include <cstdint>
#include <string>

namespace lora {

enum class ClipActivation { gelu, quick_gelu };

// The fields of transformers' CLIPTextConfig that change the result, with their defaults.
struct CLIPTextConfig {
  int64_t vocab_size = 49408;
  int64_t hidden_size = 512;
  int64_t intermediate_size = 2048;
  int64_t projection_dim = 512;
  int64_t num_hidden_layers = 12;
  int64_t num_attention_heads = 8;
  int64_t max_position_embeddings = 77;
  int64_t eos_token_id = 49407;
  double layer_norm_eps = 1e-5;
  ClipActivation hidden_act = ClipActivation::quick_gelu;
  bool with_projection = false;  // the architecture is CLIPTextModelWithProjection

  // Ignores the fields that all transformers configs have. Throws Error{bad_file} for a malformed config. Throws
  // Error{unsupported} that names a field with a value that is not supported.
  static CLIPTextConfig parse(const std::string& json, const std::string& label);
};

}  // namespace lora
