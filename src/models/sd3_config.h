#pragma once
// The config.json of an SD3Transformer2DModel.
#include <cstdint>
#include <string>
#include <vector>

namespace lora {

struct SD3Config {
  int64_t sample_size, patch_size, in_channels, out_channels, num_layers;
  int64_t heads, dim;  // dim is the size of all heads together
  int64_t joint_attention_dim, pooled_projection_dim;
  int64_t pos_embed_max_size;                  // the number of rows and of columns with a position embedding
  std::vector<int64_t> dual_attention_layers;  // in any order
  bool qk_norm;

  // Throws Error{unsupported} that names a field that is unknown or has a value that is not supported. Throws
  // Error{bad_file} for a config that is not valid.
  static SD3Config parse(const std::string& json, const std::string& label);
};

}  // namespace lora
