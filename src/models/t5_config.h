#pragma once
// The config.json of a T5EncoderModel.
#include <cstdint>
#include <string>

namespace lora {

// The fields of transformers' T5Config that change the result of the encoder, with their defaults.
struct T5Config {
  int64_t vocab_size = 32128;
  int64_t d_model = 512;
  int64_t d_kv = 64;  // of one head
  int64_t d_ff = 2048;
  int64_t num_layers = 6;
  int64_t num_heads = 8;
  int64_t relative_attention_num_buckets = 32;
  int64_t relative_attention_max_distance = 128;
  double layer_norm_epsilon = 1e-6;
  bool gated_gelu = false;  // feed_forward_proj is "gated-gelu" in T5 1.1 and "relu" in T5 1.0

  // Throws Error{bad_file} for a malformed config. Throws Error{unsupported} that names a field that is unknown or has
  // a value that is not supported.
  static T5Config parse(const std::string& json, const std::string& label);
};

}  // namespace lora
