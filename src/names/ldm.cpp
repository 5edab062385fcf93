#include "names/ldm.h"

#include <fmt/format.h>

#include <charconv>
#include <optional>
#include <span>

namespace lora {

namespace {

struct Row {
  std::string_view ldm, ours;
};

constexpr Row kUnetEnds[] = {
    {"time_embed.0.", "time_embedding.linear_1."},
    {"time_embed.2.", "time_embedding.linear_2."},
    {"label_emb.0.0.", "add_embedding.linear_1."},
    {"label_emb.0.2.", "add_embedding.linear_2."},
    {"input_blocks.0.0.", "conv_in."},
    {"out.0.", "conv_norm_out."},
    {"out.2.", "conv_out."},
};
constexpr Row kUnetResnet[] = {
    {"in_layers.0.", "norm1."},  {"in_layers.2.", "conv1."},          {"out_layers.0.", "norm2."},
    {"out_layers.3.", "conv2."}, {"emb_layers.1.", "time_emb_proj."}, {"skip_connection.", "conv_shortcut."},
};
constexpr Row kVaeEnds[] = {
    {"conv_in.", "conv_in."},
    {"norm_out.", "conv_norm_out."},
    {"conv_out.", "conv_out."},
};
constexpr Row kVaeResnet[] = {
    {"norm1.", "norm1."},
    {"conv1.", "conv1."},
    {"norm2.", "norm2."},
    {"conv2.", "conv2."},
    {"nin_shortcut.", "conv_shortcut."},
};
constexpr Row kVaeAttention[] = {
    {"norm.", "group_norm."}, {"q.", "to_q."}, {"k.", "to_k."}, {"v.", "to_v."}, {"proj_out.", "to_out.0."},
};

constexpr Row kOpenClipEnds[] = {
    {"positional_embedding", "text_model.embeddings.position_embedding.weight"},
    {"token_embedding.", "text_model.embeddings.token_embedding."},
    {"ln_final.", "text_model.final_layer_norm."},
    {"text_projection", "text_projection.weight"},
};
constexpr Row kOpenClipLayer[] = {
    {"ln_1.", "layer_norm1."},
    {"ln_2.", "layer_norm2."},
    {"mlp.c_fc.", "mlp.fc1."},
    {"mlp.c_proj.", "mlp.fc2."},
    {"attn.out_proj.", "self_attn.out_proj."},
    {"attn.in_proj_weight", "self_attn.{}_proj.weight"},
    {"attn.in_proj_bias", "self_attn.{}_proj.bias"},
};

constexpr Row kSd3Ends[] = {
    {"pos_embed", "pos_embed.pos_embed"},
    {"x_embedder.proj.", "pos_embed.proj."},
    {"t_embedder.mlp.0.", "time_text_embed.timestep_embedder.linear_1."},
    {"t_embedder.mlp.2.", "time_text_embed.timestep_embedder.linear_2."},
    {"y_embedder.mlp.0.", "time_text_embed.text_embedder.linear_1."},
    {"y_embedder.mlp.2.", "time_text_embed.text_embedder.linear_2."},
    {"context_embedder.", "context_embedder."},
    {"final_layer.linear.", "proj_out."},
    {"final_layer.adaLN_modulation.1.", "norm_out.linear."},
};
constexpr Row kSd3Block[] = {
    {"x_block.attn.qkv.", "attn.to_{}."},
    {"x_block.attn.ln_q.", "attn.norm_q."},
    {"x_block.attn.ln_k.", "attn.norm_k."},
    {"x_block.attn.proj.", "attn.to_out.0."},
    {"x_block.attn2.qkv.", "attn2.to_{}."},
    {"x_block.attn2.ln_q.", "attn2.norm_q."},
    {"x_block.attn2.ln_k.", "attn2.norm_k."},
    {"x_block.attn2.proj.", "attn2.to_out.0."},
    {"x_block.adaLN_modulation.1.", "norm1.linear."},
    {"x_block.mlp.fc1.", "ff.net.0.proj."},
    {"x_block.mlp.fc2.", "ff.net.2."},
    {"context_block.attn.qkv.", "attn.add_{}_proj."},
    {"context_block.attn.ln_q.", "attn.norm_added_q."},
    {"context_block.attn.ln_k.", "attn.norm_added_k."},
    {"context_block.attn.proj.", "attn.to_add_out."},
    {"context_block.adaLN_modulation.1.", "norm1_context.linear."},
    {"context_block.mlp.fc1.", "ff_context.net.0.proj."},
    {"context_block.mlp.fc2.", "ff_context.net.2."},
};

// A name that is read from its front.
class Reader {
 public:
  explicit Reader(std::string_view text) : text_(text) {}

  bool skip(std::string_view prefix) {
    if (!text_.starts_with(prefix)) return false;
    text_.remove_prefix(prefix.size());
    return true;
  }
  // A number with the dot behind it.
  std::optional<int64_t> number() {
    int64_t value = 0;
    auto [end, error] = std::from_chars(text_.data(), text_.data() + text_.size(), value);
    if (error != std::errc() || value < 0 || value > 999) return std::nullopt;
    text_.remove_prefix(static_cast<size_t>(end - text_.data()));
    return skip(".") ? std::optional(value) : std::nullopt;
  }
  // What the table makes of the rest, or "".
  std::string renamed(std::span<const Row> table) const {
    for (const auto& row : table)
      if (text_.starts_with(row.ldm)) return std::string(row.ours).append(text_.substr(row.ldm.size()));
    return "";
  }
  // The same the other way round: a row of ours may stand for several layers, by kFusedMark.
  OriginalName original(std::span<const Row> table) const {
    for (const auto& row : table) {
      auto mark = row.ours.find(kFusedMark);
      if (mark == std::string_view::npos) {
        if (text_.starts_with(row.ours)) return {std::string(row.ldm).append(text_.substr(row.ours.size()))};
        continue;
      }
      for (int part = 0; part < int(std::size(kFusedNames)); ++part) {
        auto ours = std::string(row.ours).replace(mark, kFusedMark.size(), kFusedNames[part]);
        if (text_.starts_with(ours)) return {std::string(row.ldm).append(text_.substr(ours.size())), part};
      }
    }
    return {};
  }
  std::string_view rest() const { return text_; }

 private:
  std::string_view text_;
};

// "prefix" + name, or "" where there is no name.
std::string below(const std::string& prefix, const std::string& name) { return name.empty() ? "" : prefix + name; }
OriginalName below(const std::string& prefix, const OriginalName& original) {
  return {below(prefix, original.name), original.part};
}

}  // namespace

std::string unet_name_from_ldm(std::string_view name, int64_t layers_per_block) {
  Reader in(name);
  if (auto end = in.renamed(kUnetEnds); !end.empty()) return end;
  if (in.skip("middle_block.")) {
    auto part = in.number();
    if (part == 1) return fmt::format("mid_block.attentions.0.{}", in.rest());
    if (part == 0 || part == 2) return below(fmt::format("mid_block.resnets.{}.", *part / 2), in.renamed(kUnetResnet));
    return "";
  }

  bool down = in.skip("input_blocks.");
  if (!down && !in.skip("output_blocks.")) return "";
  auto block = in.number(), part = in.number();
  if (!block || !part || (down && *block == 0)) return "";
  auto position = down ? *block - 1 : *block;
  auto level = position / (layers_per_block + 1), layer = position % (layers_per_block + 1);
  auto at = fmt::format("{}_blocks.{}.", down ? "down" : "up", level);
  if (down && *part == 0 && in.skip("op.")) return fmt::format("{}downsamplers.0.conv.{}", at, in.rest());
  // The upsampler comes last: after the attention, or in its place where the level has none.
  if (!down && *part > 0 && in.skip("conv.")) return fmt::format("{}upsamplers.0.conv.{}", at, in.rest());
  if (*part == 0) return below(fmt::format("{}resnets.{}.", at, layer), in.renamed(kUnetResnet));
  if (*part == 1) return fmt::format("{}attentions.{}.{}", at, layer, in.rest());
  return "";
}

OriginalName unet_name_to_ldm(std::string_view name, int64_t layers_per_block, int64_t first_attention) {
  Reader in(name);
  if (auto end = in.original(kUnetEnds); !end.name.empty()) return end;
  if (in.skip("mid_block.attentions.0.")) return {fmt::format("middle_block.1.{}", in.rest())};
  if (in.skip("mid_block.resnets.")) {
    auto layer = in.number();
    if (!layer || *layer > 1) return {};
    return below(fmt::format("middle_block.{}.", *layer * 2), in.original(kUnetResnet));
  }
  bool down = in.skip("down_blocks.");
  if (!down && !in.skip("up_blocks.")) return {};
  auto level = in.number();
  if (!level) return {};
  auto block = [&](int64_t layer) {
    return fmt::format("{}_blocks.{}.", down ? "input" : "output", *level * (layers_per_block + 1) + layer + down);
  };
  if (in.skip("downsamplers.0.conv.")) return {fmt::format("{}0.op.{}", block(layers_per_block), in.rest())};
  if (in.skip("upsamplers.0.conv."))
    return {fmt::format("{}{}.conv.{}", block(layers_per_block), *level < first_attention ? 1 : 2, in.rest())};
  bool attention = in.skip("attentions.");
  if (!attention && !in.skip("resnets.")) return {};
  auto layer = in.number();
  if (!layer || *layer >= layers_per_block + !down) return {};
  if (attention) return {fmt::format("{}1.{}", block(*layer), in.rest())};
  return below(block(*layer) + "0.", in.original(kUnetResnet));
}

std::string vae_name_from_ldm(std::string_view name, int64_t levels) {
  if (name.starts_with("quant_conv.") || name.starts_with("post_quant_conv.")) return std::string(name);
  Reader in(name);
  bool encoder = in.skip("encoder.");
  if (!encoder && !in.skip("decoder.")) return "";
  std::string side = encoder ? "encoder." : "decoder.";

  if (in.skip("mid.attn_1.")) return below(side + "mid_block.attentions.0.", in.renamed(kVaeAttention));
  if (in.skip("mid.block_1.")) return below(side + "mid_block.resnets.0.", in.renamed(kVaeResnet));
  if (in.skip("mid.block_2.")) return below(side + "mid_block.resnets.1.", in.renamed(kVaeResnet));
  if (auto end = in.renamed(kVaeEnds); !end.empty()) return side + end;

  if (!in.skip(encoder ? "down." : "up.")) return "";
  auto level = in.number();
  if (!level || *level >= levels) return "";
  auto at = encoder ? fmt::format("encoder.down_blocks.{}.", *level)
                    : fmt::format("decoder.up_blocks.{}.", levels - 1 - *level);
  if (in.skip(encoder ? "downsample.conv." : "upsample.conv."))
    return fmt::format("{}{}.0.conv.{}", at, encoder ? "downsamplers" : "upsamplers", in.rest());
  if (!in.skip("block.")) return "";
  auto layer = in.number();
  return layer ? below(fmt::format("{}resnets.{}.", at, *layer), in.renamed(kVaeResnet)) : "";
}

std::string clip_name_from_ldm(std::string_view name) {
  return std::string(name.starts_with("text_model.") ? "" : "text_model.").append(name);
}

std::string clip_name_from_open_clip(std::string_view name) {
  Reader in(name);
  if (auto end = in.renamed(kOpenClipEnds); !end.empty()) return end;
  if (!in.skip("transformer.resblocks.")) return "";
  auto layer = in.number();
  return layer ? below(fmt::format("text_model.encoder.layers.{}.", *layer), in.renamed(kOpenClipLayer)) : "";
}

std::string sd3_name_from_original(std::string_view name) {
  Reader in(name);
  if (auto end = in.renamed(kSd3Ends); !end.empty()) return end;
  if (!in.skip("joint_blocks.")) return "";
  auto layer = in.number();
  return layer ? below(fmt::format("transformer_blocks.{}.", *layer), in.renamed(kSd3Block)) : "";
}

OriginalName sd3_name_to_original(std::string_view name) {
  Reader in(name);
  if (auto end = in.original(kSd3Ends); !end.name.empty()) return end;
  if (!in.skip("transformer_blocks.")) return {};
  auto layer = in.number();
  return layer ? below(fmt::format("joint_blocks.{}.", *layer), in.original(kSd3Block)) : OriginalName();
}

}  // namespace lora
