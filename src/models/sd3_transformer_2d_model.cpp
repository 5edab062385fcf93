#include <ATen/ATen.h>

#include <algorithm>

#include "core/check.h"
#include "core/edge.h"
#include "lora/denoisers.h"
#include "models/factory.h"
#include "models/input_checks.h"
#include "models/sd3_blocks.h"
#include "models/sd3_config.h"
#include "nn/embeddings.h"

namespace lora {

namespace {

// Patches as tokens, with their position embeddings. The embeddings are a square grid. A smaller image uses its middle.
struct PatchEmbed {
  Scope s;
  SD3Config c;

  Conv2d proj{s / "proj", c.in_channels, c.dim, c.patch_size, c.patch_size, 0};
  Tensor pos_embed = s.tensor("pos_embed", {1, c.pos_embed_max_size* c.pos_embed_max_size, c.dim});

  // [N, in_channels, H, W] → [N, tokens, dim].
  Tensor operator()(const Tensor& x) const {
    const auto size = c.pos_embed_max_size, h = x.size(2) / c.patch_size, w = x.size(3) / c.patch_size;
    auto places = pos_embed.view({size, size, c.dim}).narrow(0, (size - h) / 2, h).narrow(1, (size - w) / 2, w);
    return (places + proj(x).permute({0, 2, 3, 1})).flatten(1, 2).contiguous();
  }
};

struct CombinedTimestepTextProjEmbeddings {
  Scope s;
  SD3Config c;

  Timesteps time_proj{256};
  TimestepEmbedding timestep_embedder{s / "timestep_embedder", time_proj.channels, c.dim};
  TimestepEmbedding text_embedder{s / "text_embedder", c.pooled_projection_dim, c.dim};

  // t [N], pooled [N, pooled_projection_dim] → [N, dim].
  Tensor operator()(const Tensor& t, const Tensor& pooled) const {
    return plus(timestep_embedder(time_proj(t).to(pooled.scalar_type())), text_embedder(pooled));
  }
};

std::vector<JointTransformerBlock> transformer_blocks_of(const Scope& s, const SD3Config& c) {
  std::vector<JointTransformerBlock> blocks;
  for (int64_t i = 0; i < c.num_layers; ++i)
    blocks.push_back({s / i,
                      {.dim = c.dim,
                       .heads = c.heads,
                       .qk_norm = c.qk_norm,
                       .dual_attention = std::ranges::count(c.dual_attention_layers, i) > 0,
                       .context_pre_only = i == c.num_layers - 1}});
  return blocks;
}

}  // namespace

template <>
struct PretrainedModel<SD3Transformer2DModel>::Impl {
  Scope s;
  SD3Config c;

  PatchEmbed pos_embed{s / "pos_embed", c};
  CombinedTimestepTextProjEmbeddings time_text_embed{s / "time_text_embed", c};
  Linear context_embedder{s / "context_embedder", c.joint_attention_dim, c.dim};
  std::vector<JointTransformerBlock> transformer_blocks = transformer_blocks_of(s / "transformer_blocks", c);
  AdaLayerNormContinuous norm_out{s / "norm_out", c.dim};
  Linear proj_out{s / "proj_out", c.dim, c.patch_size* c.patch_size* c.out_channels};

  static constexpr WeightFiles kFiles = kDiffusersFiles;
  static std::string class_name() { return "SD3Transformer2DModel"; }

  void check_inputs(const Tensor& x, const Tensor& text, const Tensor& pooled, const Tensor& timestep,
                    const std::vector<int64_t>& skip_layers) const;
  // Tokens of patches [N, tokens, patch area · out_channels] → [N, out_channels, height, width].
  Tensor unpatchify(const Tensor& tokens, int64_t height, int64_t width) const;
};

template class PretrainedModel<SD3Transformer2DModel>;

// ---- Calls ----------------------------------------------------------------------------------------------------------

Tensor SD3Transformer2DModel::operator()(const Tensor& hidden_states, const Tensor& encoder_hidden_states,
                                         const Tensor& pooled_projections, const Tensor& timestep,
                                         const std::vector<int64_t>& skip_layers) const {
  return edge([&] {
    const RunScope run(parts_of(*this));
    const auto& m = impl();
    m.check_inputs(hidden_states, encoder_hidden_states, pooled_projections, timestep, skip_layers);

    auto t = timestep.to(hidden_states.device()).reshape(-1).expand(hidden_states.size(0));
    auto emb = at::silu(m.time_text_embed(t, pooled_projections));  // every norm begins with this activation
    const auto p = m.c.patch_size;
    JointStates x{.image = m.pos_embed(hidden_states),
                  .text = m.context_embedder({encoder_hidden_states, kText}),
                  .place = {hidden_states.size(2) / p, hidden_states.size(3) / p}};
    for (int64_t i = 0; i < m.c.num_layers; ++i)
      if (std::ranges::count(skip_layers, i) == 0) x = m.transformer_blocks[i](std::move(x), emb);
    return m.unpatchify(m.proj_out({m.norm_out(x.image, emb), x.place}), hidden_states.size(2), hidden_states.size(3));
  });
}

Tensor SD3Transformer2DModel::Impl::unpatchify(const Tensor& tokens, int64_t height, int64_t width) const {
  const auto p = c.patch_size, h = height / p, w = width / p;
  return tokens.view({-1, h, w, p, p, c.out_channels})
      .permute({0, 5, 1, 3, 2, 4})
      .reshape({-1, c.out_channels, height, width});
}

void SD3Transformer2DModel::Impl::check_inputs(const Tensor& x, const Tensor& text, const Tensor& pooled,
                                               const Tensor& timestep, const std::vector<int64_t>& skip_layers) const {
  auto want = [](bool fits, const char* name, const std::string& wanted, const Tensor& got) {
    check_input(fits, "SD3Transformer2DModel", name, wanted, got);
  };
  const auto dtype = proj_out.site->weight.scalar_type();
  auto is = [&](const Tensor& t, int64_t dims) { return t.defined() && t.dim() == dims && t.scalar_type() == dtype; };
  auto fits = [&](int64_t side) {
    return side > 0 && side % c.patch_size == 0 && side / c.patch_size <= c.pos_embed_max_size;
  };

  want(is(x, 4) && x.size(1) == c.in_channels && fits(x.size(2)) && fits(x.size(3)), "hidden_states",
       fmt::format("{} [N, {}, H, W], where H and W are multiples of {} up to {}", to_string(dtype), c.in_channels,
                   c.patch_size, c.patch_size * c.pos_embed_max_size),
       x);
  const auto n = x.size(0);
  want(is(text, 3) && text.size(0) == n && text.size(2) == c.joint_attention_dim, "encoder_hidden_states",
       fmt::format("{} [{}, tokens, {}]", to_string(dtype), n, c.joint_attention_dim), text);
  want(is(pooled, 2) && pooled.size(0) == n && pooled.size(1) == c.pooled_projection_dim, "pooled_projections",
       fmt::format("{} [{}, {}]", to_string(dtype), n, c.pooled_projection_dim), pooled);
  want(timestep.defined() && (timestep.numel() == 1 || (timestep.dim() == 1 && timestep.size(0) == n)), "timestep",
       fmt::format("one number or [{}]", n), timestep);
  for (auto layer : skip_layers)
    check(layer >= 0 && layer < c.num_layers, ErrorKind::usage,
          "SD3Transformer2DModel: skip_layers must be from 0 to {}; got {}", c.num_layers - 1, layer);
}

// ---- Config ---------------------------------------------------------------------------------------------------------

int64_t SD3Transformer2DModel::in_channels() const { return impl().c.in_channels; }
int64_t SD3Transformer2DModel::sample_size() const { return impl().c.sample_size; }
int64_t SD3Transformer2DModel::patch_size() const { return impl().c.patch_size; }
int64_t SD3Transformer2DModel::pos_embed_max_size() const { return impl().c.pos_embed_max_size; }
int64_t SD3Transformer2DModel::num_layers() const { return impl().c.num_layers; }
int64_t SD3Transformer2DModel::joint_attention_dim() const { return impl().c.joint_attention_dim; }
int64_t SD3Transformer2DModel::pooled_projection_dim() const { return impl().c.pooled_projection_dim; }

}  // namespace lora
