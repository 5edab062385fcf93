#pragma once
// The config.json of a CLIP text encoder.
#include <cstdint>
#include <string>

namespace lora {

enum class ClipActivation { gelu, quick_gelu };

// Fields and defaults of transformers' CLIPTextConfig, as far as they shape the result.
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

  // Fields that every transformers config has are passed over. Throws Error{bad_file} for a malformed config and
  // Error{unsupported} naming a field that asks for something else.
  static CLIPTextConfig parse(const std::string& json, const std::string& label);
};

}  // namespace lora
