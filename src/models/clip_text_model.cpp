#include <ATen/ATen.h>

#include "core/check.h"
#include "core/edge.h"
#include "lora/text_encoders.h"
#include "models/clip_config.h"
#include "models/factory.h"
#include "models/input_checks.h"
#include "nn/layers.h"

namespace lora {

namespace {

struct ClipAttention {
  Scope s;
  int64_t dim, heads;

  Linear k_proj{s / "k_proj", dim, dim};
  Linear out_proj{s / "out_proj", dim, dim};
  Linear q_proj{s / "q_proj", dim, dim};
  Linear v_proj{s / "v_proj", dim, dim};

  Tensor operator()(const Tensor& x) const {
    auto split = [&](const Tensor& t) { return t.unflatten(-1, {heads, dim / heads}).transpose(1, 2); };
    auto y = at::scaled_dot_product_attention(split(q_proj(x)), split(k_proj(x)), split(v_proj(x)),
                                              /*attn_mask=*/{}, /*dropout_p=*/0.0, /*is_causal=*/true);
    return out_proj(y.transpose(1, 2).flatten(2));
  }
};

struct ClipMLP {
  Scope s;
  int64_t dim, inner;
  ClipActivation act;

  Linear fc1{s / "fc1", dim, inner};
  Linear fc2{s / "fc2", inner, dim};

  Tensor operator()(const Tensor& x) const {
    auto h = fc1(x);
    return fc2(act == ClipActivation::gelu ? at::gelu(h) : h * at::sigmoid(1.702 * h));
  }
};

struct ClipLayer {
  Scope s;
  CLIPTextConfig c;

  LayerNorm layer_norm1{s / "layer_norm1", c.hidden_size, c.layer_norm_eps};
  LayerNorm layer_norm2{s / "layer_norm2", c.hidden_size, c.layer_norm_eps};
  ClipMLP mlp{s / "mlp", c.hidden_size, c.intermediate_size, c.hidden_act};
  ClipAttention self_attn{s / "self_attn", c.hidden_size, c.num_attention_heads};

  Tensor operator()(const Tensor& x) const {
    auto h = x + self_attn(layer_norm1(x));
    return h + mlp(layer_norm2(h));
  }
};

struct ClipEmbeddings {
  Scope s;
  CLIPTextConfig c;

  Embedding position_embedding{s / "position_embedding", c.max_position_embeddings, c.hidden_size};
  TokenEmbedding token_embedding{s / "token_embedding", c.vocab_size, c.hidden_size};

  Tensor operator()(const Tensor& ids) const {
    return token_embedding(ids) + position_embedding(at::arange(ids.size(1), ids.options()).unsqueeze(0));
  }
};

// The position of the end token of each row. Early configs have the wrong eos_token_id 2. Their end token is the
// largest id of the vocabulary.
Tensor end_positions(const Tensor& ids, const CLIPTextConfig& c) {
  return (c.eos_token_id == 2 ? ids * (ids < c.vocab_size) : ids.eq(c.eos_token_id).to(at::kInt)).argmax(-1);
}

}  // namespace

template <>
struct PretrainedModel<CLIPTextModel>::Impl {
  Scope s;
  CLIPTextConfig c;

  Scope text_model = s / "text_model";
  ClipEmbeddings embeddings{text_model / "embeddings", c};
  std::vector<ClipLayer> layers = repeat<ClipLayer>(text_model / "encoder" / "layers", c.num_hidden_layers, c);
  LayerNorm final_layer_norm{text_model / "final_layer_norm", c.hidden_size, c.layer_norm_eps};
  std::optional<Linear> text_projection =
      when<Linear>(c.with_projection, s / "text_projection", c.hidden_size, c.projection_dim, kNoBias);

  // Checks the ids and returns them on the model's device. Throws Error{usage}.
  Tensor checked(const Tensor& ids) const {
    auto here = checked_input_ids(ids, embeddings.token_embedding);
    check(ids.size(1) <= c.max_position_embeddings, ErrorKind::usage,
          "input_ids has {} tokens, but the text encoder takes at most {}; truncate the prompt", ids.size(1),
          c.max_position_embeddings);
    return here;
  }

  static constexpr WeightFiles kFiles = kTransformersFiles;
  std::string class_name() const { return c.with_projection ? "CLIPTextModelWithProjection" : "CLIPTextModel"; }
  // transformers 5 writes the names of a CLIPTextModel without this level. Earlier versions write it.
  static std::vector<std::string> aliases(const std::string& name) {
    constexpr std::string_view kLevel = "text_model.";
    if (!name.starts_with(kLevel)) return {};
    return {name.substr(kLevel.size())};
  }
  // Buffers that early versions saved, and a projection that the config's architecture does not use.
  static std::set<std::string> ignorable() {
    return {"text_model.embeddings.position_ids", "embeddings.position_ids", "text_projection.weight"};
  }
};

template class PretrainedModel<CLIPTextModel>;

CLIPTextOutput CLIPTextModel::operator()(const Tensor& input_ids) const {
  return edge([&] {
    const RunScope run(parts_of(*this));
    auto ids = impl().checked(input_ids);
    CLIPTextOutput out;
    out.hidden_states.push_back(impl().embeddings(ids));
    for (const auto& layer : impl().layers) out.hidden_states.push_back(layer(out.hidden_states.back()));
    out.last_hidden_state = impl().final_layer_norm(out.hidden_states.back());

    auto rows = at::arange(ids.size(0), ids.options());
    out.pooler_output = out.last_hidden_state.index({rows, end_positions(ids, impl().c)});
    if (impl().text_projection) out.text_embeds = (*impl().text_projection)(out.pooler_output);
    return out;
  });
}

Tensor CLIPTextModel::encode(const Tensor& input_ids, std::optional<int> clip_skip) const {
  return edge([&] {
    check(!clip_skip || (*clip_skip >= 0 && *clip_skip <= num_hidden_layers()), ErrorKind::usage,
          "clip_skip is {}; it must be from 0 to {}, the number of layers of the text encoder", clip_skip.value_or(0),
          num_hidden_layers());
    const RunScope run(parts_of(*this));
    auto x = impl().embeddings(impl().checked(input_ids));
    for (int64_t i = 0; i < num_hidden_layers() - clip_skip.value_or(0); ++i) x = impl().layers[i](x);
    return impl().final_layer_norm(x);
  });
}

int64_t CLIPTextModel::hidden_size() const { return impl().c.hidden_size; }
int64_t CLIPTextModel::projection_dim() const { return impl().c.with_projection ? impl().c.projection_dim : 0; }
int64_t CLIPTextModel::max_position_embeddings() const { return impl().c.max_position_embeddings; }
int64_t CLIPTextModel::num_hidden_layers() const { return impl().c.num_hidden_layers; }

}  // namespace lora
