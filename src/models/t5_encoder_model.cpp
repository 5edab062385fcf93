#include <ATen/ATen.h>

#include <cmath>

#include "core/edge.h"
#include "lora/text_encoders.h"
#include "models/factory.h"
#include "models/input_checks.h"
#include "models/t5_config.h"
#include "nn/elementwise.h"
#include "nn/layers.h"

namespace lora {

namespace {

// The dtype of the sum of the layers. The sums of T5 XXL exceed the range of float16. In a float16 model, transformers
// keeps the last weight of each feed-forward in float32, and so also the sums.
Dtype sum_dtype(Dtype model) { return model == at::kHalf ? at::kFloat : model; }

struct T5Attention {
  Scope s;
  T5Config c;

  Linear q{s / "q", c.d_model, c.num_heads* c.d_kv, kNoBias};
  Linear k{s / "k", c.d_model, c.num_heads* c.d_kv, kNoBias};
  Linear v{s / "v", c.d_model, c.num_heads* c.d_kv, kNoBias};
  Linear o{s / "o", c.num_heads* c.d_kv, c.d_model, kNoBias};

  Tensor operator()(const Tensor& x, const Tensor& position_bias) const {
    auto split = [&](const Tensor& t) { return t.unflatten(-1, {c.num_heads, c.d_kv}).transpose(1, 2); };
    auto y = at::scaled_dot_product_attention(split(q(x)), split(k(x)), split(v(x)), position_bias,
                                              /*dropout_p=*/0.0, /*is_causal=*/false, /*scale=*/1.0);
    return o(y.transpose(1, 2).flatten(2));
  }
};

struct T5FeedForward {
  Scope s;
  T5Config c;

  Linear wi{s / (c.gated_gelu ? "wi_0" : "wi"), c.d_model, c.d_ff, kNoBias};
  std::optional<Linear> wi_1 = when<Linear>(c.gated_gelu, s / "wi_1", c.d_model, c.d_ff, kNoBias);
  Linear wo{(s / "wo").in(sum_dtype(s.dtype())), c.d_ff, c.d_model, kNoBias};

  Tensor operator()(const Tensor& x) const {
    auto h = activate(c.gated_gelu ? Activation::gelu_tanh : Activation::relu, wi(x));
    if (wi_1) h = times(std::move(h), (*wi_1)(x));
    return wo(h.to(wo.site->weight.scalar_type()));
  }
};

struct T5Block {
  Scope s;
  T5Config c;

  T5Attention attention{s / "layer" / 0 / "SelfAttention", c};
  RMSNorm attention_norm{s / "layer" / 0 / "layer_norm", c.d_model, c.layer_norm_epsilon};
  T5FeedForward feed_forward{s / "layer" / 1 / "DenseReluDense", c};
  RMSNorm feed_forward_norm{s / "layer" / 1 / "layer_norm", c.d_model, c.layer_norm_epsilon};

  Tensor operator()(Tensor x, const Tensor& position_bias) const {
    x = plus(std::move(x), attention(attention_norm(x), position_bias));
    return plus(std::move(x), feed_forward(feed_forward_norm(x)));
  }
};

// The bucket of each relative position, [tokens, tokens]. Half of the buckets are for later tokens. In each half, the
// first half of the buckets are for one distance each. The others grow with the logarithm of the distance.
Tensor position_buckets(int64_t tokens, const T5Config& c, Device device) {
  const int64_t half = c.relative_attention_num_buckets / 2, single = half / 2;
  auto places = at::arange(tokens, at::TensorOptions(at::kLong).device(device));
  auto ahead = places.unsqueeze(0) - places.unsqueeze(1);
  auto distance = ahead.abs();
  const double growth = std::log(double(c.relative_attention_max_distance) / single);
  auto far = single + (at::log(distance.to(at::kFloat) / single) / growth * (half - single)).to(at::kLong);
  return (ahead > 0) * half + at::where(distance < single, distance, far.clamp_max(half - 1));
}

}  // namespace

template <>
struct PretrainedModel<T5EncoderModel>::Impl {
  Scope s;
  T5Config c;

  Scope encoder = s / "encoder";
  TokenEmbedding embed_tokens{encoder / "embed_tokens", c.vocab_size, c.d_model};
  // The checkpoint has it in the first block. All blocks use it.
  Embedding relative_attention_bias{encoder / "block" / 0 / "layer" / 0 / "SelfAttention" / "relative_attention_bias",
                                    c.relative_attention_num_buckets, c.num_heads};
  std::vector<T5Block> block = repeat<T5Block>(encoder / "block", c.num_layers, c);
  RMSNorm final_layer_norm{encoder / "final_layer_norm", c.d_model, c.layer_norm_epsilon};

  // [1, heads, tokens, tokens]. It is added to the scores of each layer.
  Tensor position_bias(int64_t tokens, Device device) const {
    return relative_attention_bias(position_buckets(tokens, c, device).unsqueeze(0)).permute({0, 3, 1, 2}).contiguous();
  }

  static constexpr WeightFiles kFiles = kTransformersFiles;
  static std::string class_name() { return "T5EncoderModel"; }
  // The tensor has two names. Files have one of them or both. The encoder reads the longer name.
  static std::vector<std::string> aliases(const std::string& name) {
    if (name != "encoder.embed_tokens.weight") return {};
    return {"shared.weight"};
  }
  static std::set<std::string> ignorable() { return {"shared.weight"}; }
};

template class PretrainedModel<T5EncoderModel>;

Tensor T5EncoderModel::operator()(const Tensor& input_ids) const {
  return edge([&] {
    const RunScope run(parts_of(*this));
    auto ids = checked_input_ids(input_ids, impl().embed_tokens);
    auto bias = impl().position_bias(ids.size(1), device());
    auto x = impl().embed_tokens(ids).to(sum_dtype(dtype()));
    for (const auto& block : impl().block) x = block(std::move(x), bias);
    return impl().final_layer_norm(x);
  });
}

int64_t T5EncoderModel::d_model() const { return impl().c.d_model; }

}  // namespace lora
