#pragma once
// The config.json of an SD3Transformer2DModel.
#include <cstdint>
#include <string>
#include <vector>

namespace lora {

struct SD3Config {
  int64_t sample_size, patch_size, in_channels, out_channels, num_layers;
  int64_t heads, dim;  // dim is of all heads together
  int64_t joint_attention_dim, pooled_projection_dim;
  int64_t pos_embed_max_size;                  // rows and columns of patches that have a place
  std::vector<int64_t> dual_attention_layers;  // in any order
  bool qk_norm;

  // Throws Error{unsupported} naming the field for a value that this network cannot have or a field that it does not
  // know, Error{bad_file} for a config that makes no sense.
  static SD3Config parse(const std::string& json, const std::string& label);
};

}  // namespace lora
