#include "models/unet_2d_condition_config.h"

#include <algorithm>

#include "models/config_reader.h"

namespace lora {

using nlohmann::json;

namespace {

using Depths = std::vector<int64_t>;

// The fields that have one value for all blocks or one for each block, in the order of the way down.
struct PerBlock {
  std::vector<int64_t> channels, layers, heads, context;
  std::vector<bool> only_cross_attention;
  std::vector<json> depth;  // a number for all transformers of the block, or a list
};

void reject_other_architectures(ConfigReader& config) {
  config.only("class_embed_type", {nullptr});
  config.only("num_class_embeds", {nullptr});
  config.only("class_embeddings_concat", {false});
  config.only("addition_embed_type", {nullptr, "text_time"});
  config.only("encoder_hid_dim", {nullptr});
  config.only("encoder_hid_dim_type", {nullptr});
  config.only("time_embedding_type", {"positional"});
  config.only("attention_type", {"default"});
  config.only("dual_cross_attention", {false});
  config.only("resnet_time_scale_shift", {"default", "scale_shift"});
  config.only("downsample_padding", {0, 1});
  // attention_head_dim has the number of heads, in spite of its name. Published configs do not set num_attention_heads.
  config.only("num_attention_heads", {nullptr});

  // Only other kinds of blocks read these, or they have no effect on inference with fused attention.
  config.ignore({"dropout", "upcast_attention", "resnet_skip_time_act", "resnet_out_scale_factor",
                 "cross_attention_norm", "mid_block_only_cross_attention", "addition_embed_type_num_heads"});
  // Some configs have these from the moving average of a training run.
  config.ignore({"decay", "inv_gamma", "min_decay", "optimization_step", "power", "update_after_step", "use_ema_warmup",
                 "collected_params"});
}

int64_t square_sample_size(ConfigReader& config) {
  const auto& value = config.value("sample_size");
  if (!value.is_array()) return config.maybe_integer("sample_size").value_or(0);
  auto sides = config.integers("sample_size", {});
  if (sides.size() != 2 || sides[0] != sides[1]) config.refuse("sample_size", "one number, or two equal numbers");
  return sides[0];
}

// "UNetResDownBlock2D" is an old name of "DownBlock2D".
bool has_attention(ConfigReader& config, const std::string& field, std::string type, const std::string& direction) {
  if (type.starts_with("UNetRes")) type = type.substr(7);
  if (type == "CrossAttn" + direction + "Block2D") return true;
  if (type != direction + "Block2D")
    config.refuse(field, "lists of \"" + direction + "Block2D\" and \"CrossAttn" + direction + "Block2D\"");
  return false;
}

std::vector<json> depths_per_block(ConfigReader& config, const std::string& name, size_t n) {
  const auto& value = config.value(name);
  auto is_depth = [](const json& v) { return v.is_number_integer() && v >= 0 && v <= 1 << 10; };
  auto is_entry = [&](const json& v) { return is_depth(v) || (v.is_array() && std::ranges::all_of(v, is_depth)); };
  if (value.is_null()) return std::vector<json>(n, json(1));
  if (is_depth(value)) return std::vector<json>(n, value);
  if (!value.is_array() || value.size() != n || !std::ranges::all_of(value, is_entry))
    config.reject(name, fmt::format("a number, or a list of {} numbers or lists of numbers, one for each block", n));
  return value;
}

Depths expand(ConfigReader& config, const std::string& name, const json& depth, int64_t layers) {
  if (depth.is_number()) return Depths(layers, depth.get<int64_t>());
  if (static_cast<int64_t>(depth.size()) < layers)
    config.reject(name, fmt::format("a list of at least {} numbers for a block of {} transformers", layers, layers));
  auto list = depth.get<Depths>();
  list.resize(layers);
  return list;
}

PerBlock read_per_block(ConfigReader& config) {
  auto channels = config.integers("block_out_channels", {320, 640, 1280, 1280});
  const auto n = channels.size();
  PerBlock b{
      .channels = channels,
      .layers = config.integers_per_block("layers_per_block", 2, n),
      .heads = config.integers_per_block("attention_head_dim", 8, n),
      .context = config.integers_per_block("cross_attention_dim", 1280, n),
      .only_cross_attention = config.flags_per_block("only_cross_attention", false, n),
      .depth = depths_per_block(config, "transformer_layers_per_block", n),
  };
  for (size_t i = 0; i < n; ++i)
    if (channels[i] % b.heads[i] != 0) config.reject("attention_head_dim", "divisors of block_out_channels");
  return b;
}

std::vector<bool> read_types(ConfigReader& config, const std::string& direction, std::vector<std::string> fallback,
                             size_t n) {
  auto field = direction == "Down" ? "down_block_types" : "up_block_types";
  std::vector<bool> attention;
  for (const auto& type : config.words(field, std::move(fallback)))
    attention.push_back(has_attention(config, field, type, direction));
  if (attention.size() != n)
    config.reject(field, fmt::format("a list of {} texts, one for each of block_out_channels", n));
  return attention;
}

TransformerSettings transformer_of(const PerBlock& b, size_t block, const TransformerSettings& common) {
  auto c = common;
  c.heads = b.heads[block];
  c.context = b.context[block];
  c.only_cross_attention = b.only_cross_attention[block];
  return c;
}

std::vector<StageSettings> down_stages(ConfigReader& config, const PerBlock& b, const TransformerSettings& common) {
  const auto n = b.channels.size();
  auto attention = read_types(
      config, "Down", {"CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"}, n);
  std::vector<StageSettings> stages;
  for (size_t i = 0; i < n; ++i)
    stages.push_back(
        {.out = b.channels[i],
         .layers = b.layers[i],
         .depths = attention[i] ? expand(config, "transformer_layers_per_block", b.depth[i], b.layers[i]) : Depths(),
         .transformer = transformer_of(b, i, common),
         .resample = i + 1 < n});
  return stages;
}

std::vector<StageSettings> up_stages(ConfigReader& config, const PerBlock& b, const TransformerSettings& common) {
  const auto n = b.channels.size();
  auto attention =
      read_types(config, "Up", {"UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"}, n);
  std::string field = "reverse_transformer_layers_per_block";
  auto depth = depths_per_block(config, field, n);
  if (config.value(field).is_null()) {
    field = "transformer_layers_per_block";
    depth.assign(b.depth.rbegin(), b.depth.rend());
    if (std::ranges::any_of(depth, [](const json& d) { return d.is_array(); }))
      config.reject(field, "a list of numbers, unless reverse_transformer_layers_per_block is given");
  }
  std::vector<StageSettings> stages;
  for (size_t i = 0; i < n; ++i) {
    const auto block = n - 1 - i;
    const auto layers = b.layers[block] + 1;
    stages.push_back({.out = b.channels[block],
                      .layers = layers,
                      .depths = attention[i] ? expand(config, field, depth[i], layers) : Depths(),
                      .transformer = transformer_of(b, block, common),
                      .resample = i + 1 < n});
  }
  return stages;
}

std::optional<StageSettings> mid_stage(ConfigReader& config, const PerBlock& b, const TransformerSettings& common) {
  config.only("mid_block_type", {"UNetMidBlock2DCrossAttn", "UNetMidBlock2D", nullptr});
  auto type = config.value("mid_block_type");
  if (type.is_null() && config.has("mid_block_type")) return std::nullopt;
  const bool attention = type != "UNetMidBlock2D";
  auto transformer = transformer_of(b, b.channels.size() - 1, common);
  transformer.only_cross_attention = false;
  return StageSettings{
      .out = b.channels.back(),
      .layers = attention ? 2 : 1,
      .depths = attention ? expand(config, "transformer_layers_per_block", b.depth.back(), 1) : Depths(),
      .transformer = transformer,
      .resample = false};
}

// The channels of the context, which must be the same for all transformers.
int64_t common_context(ConfigReader& config, const UNet2DConditionConfig& c) {
  auto stages = c.down;
  stages.insert(stages.end(), c.up.begin(), c.up.end());
  if (c.mid) stages.push_back(*c.mid);
  std::erase_if(stages, [](const StageSettings& stage) { return stage.depths.empty(); });
  if (stages.empty()) config.refuse("down_block_types", "networks with cross-attention in at least one block");
  for (const auto& stage : stages)
    if (stage.transformer.context != stages.front().transformer.context)
      config.refuse("cross_attention_dim", "the same for all blocks with attention");
  return stages.front().transformer.context;
}

void read_time(ConfigReader& config, UNet2DConditionConfig& c) {
  c.flip_sin_to_cos = config.flag("flip_sin_to_cos", true);
  c.freq_shift = config.number("freq_shift", 0);
  c.time_embed_dim = config.maybe_integer("time_embedding_dim").value_or(4 * c.time_channels);
  c.time_cond_proj_dim = config.maybe_integer("time_cond_proj_dim").value_or(0);
  c.timestep_post_act = config.maybe_activation("timestep_post_act");
  c.time_embedding_act = config.maybe_activation("time_embedding_act_fn");

  auto embedded = config.maybe_integer("addition_time_embed_dim");
  auto projected = config.maybe_integer("projection_class_embeddings_input_dim");
  const bool added = !config.value("addition_embed_type").is_null();
  if (added && !embedded) config.reject("addition_time_embed_dim", "a number if addition_embed_type is \"text_time\"");
  if (added && !projected)
    config.reject("projection_class_embeddings_input_dim", "a number if addition_embed_type is \"text_time\"");
  c.addition_time_embed_dim = added ? *embedded : 0;
  c.projection_class_embeddings_input_dim = added ? *projected : 0;
}

void read_resnets(ConfigReader& config, UNet2DConditionConfig& c) {
  c.act = config.activation("act_fn");
  c.resnet = {.groups = config.integer("norm_num_groups", 32),
              .eps = config.number("norm_eps", 1e-5),
              .act = c.act,
              .time = c.time_embed_dim,
              .scale_shift = config.word("resnet_time_scale_shift", "default") == "scale_shift"};
  c.mid_resnet = c.resnet;
  c.mid_resnet.output_scale = config.number("mid_block_scale_factor", 1);
}

}  // namespace

UNet2DConditionConfig UNet2DConditionConfig::parse(const std::string& text, const std::string& label) {
  ConfigReader config(text, label);
  reject_other_architectures(config);

  UNet2DConditionConfig c;
  c.in_channels = config.integer("in_channels", 4);
  c.out_channels = config.integer("out_channels", 4);
  c.sample_size = square_sample_size(config);
  c.conv_in_kernel = config.integer("conv_in_kernel", 3);
  c.conv_out_kernel = config.integer("conv_out_kernel", 3);
  c.center_input_sample = config.flag("center_input_sample", false);
  c.downsample_padding = config.integer("downsample_padding", 1, 0);

  auto blocks = read_per_block(config);
  c.time_channels = blocks.channels.front();
  read_time(config, c);
  read_resnets(config, c);
  for (auto channels : blocks.channels)
    if (channels % c.resnet.groups != 0) config.reject("norm_num_groups", "a divisor of all block_out_channels");

  TransformerSettings common{.groups = c.resnet.groups,
                             .linear_projection = config.flag("use_linear_projection", false)};
  c.down = down_stages(config, blocks, common);
  c.mid = mid_stage(config, blocks, common);
  c.up = up_stages(config, blocks, common);
  c.context_channels = common_context(config, c);
  config.finish();
  return c;
}

}  // namespace lora
