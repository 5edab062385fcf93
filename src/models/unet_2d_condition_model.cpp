#include <ATen/ATen.h>

#include "core/check.h"
#include "core/edge.h"
#include "lora/denoisers.h"
#include "models/factory.h"
#include "models/input_checks.h"
#include "models/unet_2d_blocks.h"
#include "models/unet_2d_condition_config.h"
#include "nn/embeddings.h"

namespace lora {

namespace {

std::vector<DownBlock2D> down_blocks_of(const Scope& s, const UNet2DConditionConfig& c) {
  auto in = c.down.front().out;
  return each(static_cast<int64_t>(c.down.size()), [&](int64_t i) {
    return DownBlock2D{s / i, std::exchange(in, c.down[i].out), c.down[i], c.resnet, c.downsample_padding};
  });
}

// Each residual block on the way up takes one output of the way down. The last block of a stage takes an output of the
// next stage.
std::vector<UpBlock2D> up_blocks_of(const Scope& s, const UNet2DConditionConfig& c) {
  const auto n = static_cast<int64_t>(c.up.size());
  auto before = c.up.front().out;
  return each(n, [&](int64_t i) {
    const auto& stage = c.up[i];
    std::vector<int64_t> in(stage.layers, 2 * stage.out);
    in.front() += before - stage.out;
    in.back() += c.up[std::min(i + 1, n - 1)].out - stage.out;
    before = stage.out;
    return UpBlock2D{s / i, in, stage, c.resnet};
  });
}

// The mask (1 keeps a token, 0 removes it) as a bias that is added to the attention scores.
Tensor to_bias(const Tensor& mask, Dtype dtype) { return ((1 - mask.to(dtype)) * -10000.0).unsqueeze(1).unsqueeze(1); }

}  // namespace

template <>
struct PretrainedModel<UNet2DConditionModel>::Impl {
  Scope s;
  UNet2DConditionConfig c;

  Conv2d conv_in{s / "conv_in", c.in_channels, c.down.front().out, c.conv_in_kernel, 1, (c.conv_in_kernel - 1) / 2};
  Timesteps time_proj{c.time_channels, c.flip_sin_to_cos, c.freq_shift};
  TimestepEmbedding time_embedding{s / "time_embedding", c.time_channels,     c.time_embed_dim, c.act,
                                   c.timestep_post_act,  c.time_cond_proj_dim};
  Timesteps add_time_proj{c.addition_time_embed_dim, c.flip_sin_to_cos, c.freq_shift};
  std::optional<TimestepEmbedding> add_embedding = when<TimestepEmbedding>(
      c.addition_time_embed_dim > 0, s / "add_embedding", c.projection_class_embeddings_input_dim, c.time_embed_dim);
  std::vector<DownBlock2D> down_blocks = down_blocks_of(s / "down_blocks", c);
  std::vector<UpBlock2D> up_blocks = up_blocks_of(s / "up_blocks", c);
  std::optional<MidBlock2D> mid_block =
      c.mid ? std::optional(MidBlock2D{s / "mid_block", *c.mid, c.mid_resnet}) : std::nullopt;
  GroupNorm conv_norm_out{s / "conv_norm_out", c.down.front().out, c.resnet.groups, c.resnet.eps};
  Conv2d conv_out{
      s / "conv_out", c.down.front().out, c.out_channels, c.conv_out_kernel, 1, (c.conv_out_kernel - 1) / 2};

  static constexpr WeightFiles kFiles = kDiffusersFiles;
  static std::string class_name() { return "UNet2DConditionModel"; }

  void check_inputs(const Tensor& sample, const Tensor& timestep, const Tensor& context,
                    const UNetOptions& options) const;
  Tensor time(const Tensor& sample, const Tensor& timestep, const UNetOptions& options) const;
  Tensor forward(const Tensor& sample, const Conditioning& given) const;
};

template class PretrainedModel<UNet2DConditionModel>;

// ---- Calls ----------------------------------------------------------------------------------------------------------

Tensor UNet2DConditionModel::operator()(const Tensor& sample, const Tensor& timestep,
                                        const Tensor& encoder_hidden_states, const UNetOptions& options) const {
  return edge([&] {
    const RunScope run(parts_of(*this));
    impl().check_inputs(sample, timestep, encoder_hidden_states, options);
    Conditioning given{.time = impl().time(sample, timestep, options), .context = encoder_hidden_states};
    if (options.encoder_attention_mask.defined())
      given.mask = to_bias(options.encoder_attention_mask, sample.scalar_type());
    return impl().forward(sample, given);
  });
}

Tensor UNet2DConditionModel::Impl::time(const Tensor& sample, const Tensor& timestep,
                                        const UNetOptions& options) const {
  auto t = timestep.to(sample.device()).reshape(-1).expand(sample.size(0));
  auto emb = time_embedding(time_proj(t).to(sample.scalar_type()), options.timestep_cond);
  if (add_embedding) {
    auto sizes = add_time_proj(options.time_ids.flatten()).reshape({options.text_embeds.size(0), -1});
    emb = emb + (*add_embedding)(at::cat({options.text_embeds, sizes}, -1).to(emb.scalar_type()));
  }
  if (c.time_embedding_act) emb = activate(*c.time_embedding_act, std::move(emb));
  return activate(c.act, std::move(emb));  // every residual block begins with this activation
}

Tensor UNet2DConditionModel::Impl::forward(const Tensor& sample, const Conditioning& given) const {
  std::vector<Tensor> skips{conv_in(c.center_input_sample ? 2 * sample - 1 : sample)};
  for (const auto& block : down_blocks)
    for (auto& output : block(skips.back(), given)) skips.push_back(std::move(output));

  auto h = mid_block ? (*mid_block)(skips.back(), given) : skips.back();

  for (const auto& block : up_blocks) {
    auto first = skips.end() - static_cast<int64_t>(block.resnets.size());
    std::vector<Tensor> taken(first, skips.end());
    skips.erase(first, skips.end());
    auto size = skips.empty() ? std::vector<int64_t>() : skips.back().sizes().slice(2).vec();
    h = block(std::move(h), std::move(taken), size, given);
  }
  return conv_out(activate(c.act, conv_norm_out(h)));
}

void UNet2DConditionModel::Impl::check_inputs(const Tensor& sample, const Tensor& timestep, const Tensor& context,
                                              const UNetOptions& options) const {
  auto want = [](bool fits, const char* name, const std::string& wanted, const Tensor& got) {
    check_input(fits, "UNet2DConditionModel", name, wanted, got);
  };
  const auto dtype = conv_in.site->weight.scalar_type();
  auto is_batch = [&](const Tensor& t, int64_t dim) {
    return t.defined() && t.dim() == dim && t.size(0) == sample.size(0);
  };

  want(sample.defined() && sample.dim() == 4 && sample.size(1) == c.in_channels && sample.scalar_type() == dtype,
       "sample", fmt::format("{} [N, {}, H, W]", to_string(dtype), c.in_channels), sample);
  want(timestep.defined() && (timestep.numel() == 1 || is_batch(timestep, 1)), "timestep",
       fmt::format("one number or [{}]", sample.size(0)), timestep);
  want(is_batch(context, 3) && context.size(2) == c.context_channels && context.scalar_type() == dtype,
       "encoder_hidden_states",
       fmt::format("{} [{}, tokens, {}]", to_string(dtype), sample.size(0), c.context_channels), context);

  if (options.encoder_attention_mask.defined())
    want(is_batch(options.encoder_attention_mask, 2) && options.encoder_attention_mask.size(1) == context.size(1),
         "encoder_attention_mask", fmt::format("[{}, {}]", sample.size(0), context.size(1)),
         options.encoder_attention_mask);
  if (options.timestep_cond.defined())
    want(c.time_cond_proj_dim > 0 && is_batch(options.timestep_cond, 2) &&
             options.timestep_cond.size(1) == c.time_cond_proj_dim,
         "timestep_cond",
         c.time_cond_proj_dim > 0 ? fmt::format("[{}, {}]", sample.size(0), c.time_cond_proj_dim)
                                  : "undefined, because the config does not have time_cond_proj_dim",
         options.timestep_cond);
  if (!add_embedding) return;
  want(is_batch(options.text_embeds, 2), "text_embeds", fmt::format("[{}, channels]", sample.size(0)),
       options.text_embeds);
  const auto ids = (c.projection_class_embeddings_input_dim - options.text_embeds.size(1)) / c.addition_time_embed_dim;
  want(is_batch(options.time_ids, 2) && options.time_ids.size(1) == ids, "time_ids",
       fmt::format("[{}, {}] for text_embeds with {} channels", sample.size(0), ids, options.text_embeds.size(1)),
       options.time_ids);
}

// ---- Config ---------------------------------------------------------------------------------------------------------

int64_t UNet2DConditionModel::in_channels() const { return impl().c.in_channels; }
int64_t UNet2DConditionModel::sample_size() const { return impl().c.sample_size; }
int64_t UNet2DConditionModel::cross_attention_dim() const { return impl().c.context_channels; }
int64_t UNet2DConditionModel::time_cond_proj_dim() const { return impl().c.time_cond_proj_dim; }

}  // namespace lora
