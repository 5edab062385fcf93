#include "models/sd3_config.h"

#include <algorithm>

#include "models/config_reader.h"

namespace lora {

using nlohmann::json;

static std::vector<int64_t> read_dual_attention_layers(ConfigReader& config) {
  const std::string name = "dual_attention_layers";
  const auto& value = config.value(name);
  if (!config.has(name)) return {};
  auto is_layer = [](const json& v) { return v.is_number_integer() && v >= 0; };
  if (!value.is_array() || !std::ranges::all_of(value, is_layer)) config.reject(name, "a list of layer numbers");
  return value.get<std::vector<int64_t>>();
}

SD3Config SD3Config::parse(const std::string& text, const std::string& label) {
  ConfigReader config(text, label);
  SD3Config c;
  c.sample_size = config.integer("sample_size", 128);
  c.patch_size = config.integer("patch_size", 2);
  c.in_channels = config.integer("in_channels", 16);
  c.num_layers = config.integer("num_layers", 18);
  c.heads = config.integer("num_attention_heads", 18);
  c.dim = c.heads * config.integer("attention_head_dim", 64);
  c.joint_attention_dim = config.integer("joint_attention_dim", 4096);
  c.pooled_projection_dim = config.integer("pooled_projection_dim", 2048);
  c.out_channels = config.has("out_channels") ? config.maybe_integer("out_channels").value_or(c.in_channels) : 16;
  c.pos_embed_max_size = config.integer("pos_embed_max_size", 96);
  c.dual_attention_layers = read_dual_attention_layers(config);
  config.only("qk_norm", {nullptr, "rms_norm"});
  c.qk_norm = config.value("qk_norm") == "rms_norm";
  // The text tokens join the image tokens without another projection.
  if (config.integer("caption_projection_dim", 1152) != c.dim)
    config.reject("caption_projection_dim", "num_attention_heads times attention_head_dim");
  config.finish();
  return c;
}

}  // namespace lora
