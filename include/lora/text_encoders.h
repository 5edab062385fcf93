#pragma once
// The networks that read prompts.
#include "lora/model.h"

namespace lora {

struct CLIPTextOutput {
  Tensor last_hidden_state;           // [N, tokens, hidden], after the final layer norm
  Tensor pooler_output;               // [N, hidden]: at the end token
  Tensor text_embeds;                 // [N, projection_dim] where the model projects, else undefined
  std::vector<Tensor> hidden_states;  // the embeddings, then each layer's output; penultimate is [size - 2]
};

// transformers' CLIPTextModel and, where the config's architectures say so, CLIPTextModelWithProjection. Paths have
// their `text_model.` level whether the file has it or not.
class CLIPTextModel : public PretrainedModel<CLIPTextModel> {
 public:
  using PretrainedModel::PretrainedModel;

  // input_ids int64 [N, tokens], tokens at most max_position_embeddings.
  CLIPTextOutput operator()(const Tensor& input_ids) const;

  // hidden_states[-(clip_skip + 1)] with the final layer norm applied: diffusers' clip_skip; last_hidden_state for
  // none.
  Tensor encode(const Tensor& input_ids, std::optional<int> clip_skip = {}) const;

  int64_t hidden_size() const;
  int64_t projection_dim() const;  // of text_embeds; 0 where the model does not project
  int64_t max_position_embeddings() const;
  int64_t num_hidden_layers() const;
};

// transformers' T5EncoderModel, versions 1.0 and 1.1 (arXiv:1910.10683): Stable Diffusion 3's third text encoder. In
// float16, the weights `wo` and the sums that they go into are float32, as in transformers.
class T5EncoderModel : public PretrainedModel<T5EncoderModel> {
 public:
  using PretrainedModel::PretrainedModel;

  // input_ids int64 [N, tokens] → last_hidden_state [N, tokens, d_model]. No mask: the pipelines that use it attend to
  // the padding as well. Throws Error{usage} for ids that the vocabulary does not have.
  Tensor operator()(const Tensor& input_ids) const;

  int64_t d_model() const;
};

}  // namespace lora
