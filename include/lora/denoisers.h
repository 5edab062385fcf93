#pragma once
// The networks that remove noise. Threads: as for Model, calls may run at the same time on several threads.
#include "lora/model.h"

namespace lora {

struct UNetOptions {
  Tensor text_embeds, time_ids;   // added_cond_kwargs of SDXL: [N, 1280], [N, 6]
  Tensor timestep_cond;           // [N, time_cond_proj_dim]: the guidance embedding of distilled models
  Tensor encoder_attention_mask;  // [N, tokens]: 1 keeps a token, 0 removes it
};

// diffusers' UNet2DConditionModel: the denoiser of Stable Diffusion 1.x, 2.x and XL. Threads: as for Model.
class UNet2DConditionModel : public PretrainedModel<UNet2DConditionModel> {
 public:
  using PretrainedModel::PretrainedModel;

  // `sample` is [N, in_channels, H, W], `encoder_hidden_states` is [N, tokens, cross_attention_dim]. `timestep` is one
  // number or [N], of any real dtype. Returns [N, out_channels, H, W]: the predicted noise or velocity, depending on
  // how the model was trained. Throws Error{usage} for other shapes or dtypes.
  Tensor operator()(const Tensor& sample, const Tensor& timestep, const Tensor& encoder_hidden_states,
                    const UNetOptions& options = {}) const;

  int64_t in_channels() const;
  int64_t sample_size() const;  // 0 if the config does not have it
  int64_t cross_attention_dim() const;
  int64_t time_cond_proj_dim() const;  // 0 if the config does not have it
};

// diffusers' SD3Transformer2DModel: the denoiser of Stable Diffusion 3 and 3.5 (MM-DiT, arXiv:2403.03206). Threads: as
// for Model.
class SD3Transformer2DModel : public PretrainedModel<SD3Transformer2DModel> {
 public:
  using PretrainedModel::PretrainedModel;

  // `hidden_states` is [N, in_channels, H, W]. H and W are multiples of patch_size, at most patch_size ·
  // pos_embed_max_size. `encoder_hidden_states` is [N, tokens, joint_attention_dim] and `pooled_projections` is [N,
  // pooled_projection_dim]. `timestep` is one number or [N], in 0 … 1000. The joint blocks in `skip_layers` are left
  // out (skip layer guidance). Returns [N, out_channels, H, W], the predicted velocity. Throws Error{usage} for inputs
  // that do not fit.
  Tensor operator()(const Tensor& hidden_states, const Tensor& encoder_hidden_states, const Tensor& pooled_projections,
                    const Tensor& timestep, const std::vector<int64_t>& skip_layers = {}) const;

  int64_t in_channels() const;
  int64_t sample_size() const;
  int64_t patch_size() const;
  int64_t pos_embed_max_size() const;
  int64_t num_layers() const;
  int64_t joint_attention_dim() const;
  int64_t pooled_projection_dim() const;
};

// diffusers' UVit2DModel: it predicts the masked tokens of aMUSEd (arXiv:2401.01808). Threads: as for Model.
class UVit2DModel : public PretrainedModel<UVit2DModel> {
 public:
  using PretrainedModel::PretrainedModel;

  // `input_ids` is int64 [N, h, w]: tokens of the VQModel's codebook, or the mask token. If the config sets
  // `downsample`, h and w are even. `encoder_hidden_states` is [N, tokens, encoder_hidden_size], `pooled_text_emb` is
  // [N, cond_embed_dim]. `micro_conds` is [N, 5], of any real dtype, in the order of diffusers' pipeline: the width and
  // height of the image, its crop, and its aesthetic score. Returns the logits of the tokens, [N, codebook_size, h, w].
  // Throws Error{usage} for other shapes or dtypes, and for ids outside the vocabulary.
  Tensor operator()(const Tensor& input_ids, const Tensor& encoder_hidden_states, const Tensor& pooled_text_emb,
                    const Tensor& micro_conds) const;

  int64_t sample_size() const;
  bool downsample() const;
  int64_t vocab_size() const;
  int64_t codebook_size() const;
  int64_t encoder_hidden_size() const;
  int64_t cond_embed_dim() const;
};

}  // namespace lora
