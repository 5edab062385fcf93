#pragma once
// The networks that remove noise.
#include "lora/model.h"

namespace lora {

struct UNetOptions {
  Tensor text_embeds, time_ids;   // added_cond_kwargs of SDXL: [N, 1280], [N, 6]
  Tensor timestep_cond;           // [N, time_cond_proj_dim]: guidance embedding of distilled models
  Tensor encoder_attention_mask;  // [N, tokens], 1 keeps and 0 discards
};

// diffusers' UNet2DConditionModel: the denoiser of SD 1.x, 2.x and SDXL.
class UNet2DConditionModel : public PretrainedModel<UNet2DConditionModel> {
 public:
  using PretrainedModel::PretrainedModel;

  // sample [N, in_channels, H, W]; timestep: number or [N], any real dtype; encoder_hidden_states [N, tokens,
  // cross_attention_dim]. Returns [N, out_channels, H, W], the predicted noise (or velocity, as the model was trained).
  Tensor operator()(const Tensor& sample, const Tensor& timestep, const Tensor& encoder_hidden_states,
                    const UNetOptions& options = {}) const;

  int64_t in_channels() const;
  int64_t sample_size() const;
  int64_t cross_attention_dim() const;
  int64_t time_cond_proj_dim() const;  // 0 where the config has none
};

// diffusers' SD3Transformer2DModel: the denoiser of Stable Diffusion 3 and 3.5 (MM-DiT, arXiv:2403.03206).
class SD3Transformer2DModel : public PretrainedModel<SD3Transformer2DModel> {
 public:
  using PretrainedModel::PretrainedModel;

  // hidden_states [N, in_channels, H, W], H and W multiples of patch_size up to patch_size · pos_embed_max_size;
  // encoder_hidden_states [N, tokens, joint_attention_dim]; pooled_projections [N, pooled_projection_dim]; timestep:
  // number or [N], in 0 … 1000. `skip_layers` leaves these joint blocks out (skip layer guidance). Returns
  // [N, out_channels, H, W], the predicted velocity. Throws Error{usage} for inputs that do not fit.
  Tensor operator()(const Tensor& hidden_states, const Tensor& encoder_hidden_states, const Tensor& pooled_projections,
                    const Tensor& timestep, const std::vector<int64_t>& skip_layers = {}) const;

  int64_t in_channels() const;
  int64_t sample_size() const;
  int64_t patch_size() const;
  int64_t num_layers() const;
  int64_t joint_attention_dim() const;
  int64_t pooled_projection_dim() const;
};

// diffusers' UVit2DModel: the masked-token predictor of aMUSEd (arXiv:2401.01808).
class UVit2DModel : public PretrainedModel<UVit2DModel> {
 public:
  using PretrainedModel::PretrainedModel;

  // input_ids int64 [N, h, w], tokens of the VQModel's codebook or the mask token, h and w even where the config says
  // `downsample`; encoder_hidden_states [N, tokens, encoder_hidden_size]; pooled_text_emb [N, cond_embed_dim];
  // micro_conds [N, 5], any real dtype: the picture's width and height, what was cropped of it, its aesthetic score, in
  // the order of diffusers' pipeline. Returns [N, codebook_size, h, w], the logits of each place's token. Throws
  // Error{usage} for other shapes or dtypes, and for ids outside the vocabulary.
  Tensor operator()(const Tensor& input_ids, const Tensor& encoder_hidden_states, const Tensor& pooled_text_emb,
                    const Tensor& micro_conds) const;

  int64_t sample_size() const;
  int64_t vocab_size() const;
  int64_t codebook_size() const;
  int64_t encoder_hidden_size() const;
  int64_t cond_embed_dim() const;
};

}  // namespace lora
