#pragma once
// The text encoders.
#include "lora/model.h"

namespace lora {

struct CLIPTextOutput {
  Tensor last_hidden_state;           // [N, tokens, hidden], after the final layer norm
  Tensor pooler_output;               // [N, hidden], at the end token
  Tensor text_embeds;                 // [N, projection_dim]; undefined for a model without a projection
  std::vector<Tensor> hidden_states;  // the embeddings, then the output of each layer
};

// transformers' CLIPTextModel. If the config's architectures say so, it is CLIPTextModelWithProjection. Layer paths
// start with `text_model.`, even if the names in the file do not. Threads: as for Model.
class CLIPTextModel : public PretrainedModel<CLIPTextModel> {
 public:
  using PretrainedModel::PretrainedModel;

  // `input_ids` is int64 [N, tokens], with at most max_position_embeddings tokens. Throws Error{usage} for other shapes
  // or dtypes, and for ids outside the vocabulary.
  CLIPTextOutput operator()(const Tensor& input_ids) const;

  // diffusers' clip_skip: hidden_states[-(clip_skip + 1)] after the final layer norm. Without clip_skip, this is
  // last_hidden_state. Throws Error{usage} as operator() does, and unless clip_skip is in 0 … num_hidden_layers.
  Tensor encode(const Tensor& input_ids, std::optional<int> clip_skip = {}) const;

  int64_t hidden_size() const;
  int64_t projection_dim() const;  // of text_embeds; 0 for a model without a projection
  int64_t max_position_embeddings() const;
  int64_t num_hidden_layers() const;
};

// transformers' T5EncoderModel, versions 1.0 and 1.1 (arXiv:1910.10683): the third text encoder of Stable Diffusion 3.
// In a float16 model, the weights `wo` and the sums of the layers are float32, as in transformers. Threads: as for
// Model.
class T5EncoderModel : public PretrainedModel<T5EncoderModel> {
 public:
  using PretrainedModel::PretrainedModel;

  // `input_ids` is int64 [N, tokens]. Returns last_hidden_state, [N, tokens, d_model]. There is no mask, because the
  // pipelines attend to the padding too. Throws Error{usage} for other shapes or dtypes, and for ids outside the
  // vocabulary.
  Tensor operator()(const Tensor& input_ids) const;

  int64_t d_model() const;
};

}  // namespace lora
