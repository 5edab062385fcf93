#include "models/sd3_blocks.h"

#include "nn/elementwise.h"

namespace lora {

namespace {

Tensor normalize(const Tensor& x) { return at::layer_norm(x, x.size(-1), {}, {}, 1e-6); }

Tensor modulate(Tensor normed, const Modulation& m) { return plus(times(std::move(normed), 1 + m.scale), m.shift); }

// x + gate · y
Tensor add_gated(Tensor&& x, const Tensor& gate, const Tensor& y) {
  return reusable(x) ? std::move(x.addcmul_(gate, y)) : at::addcmul(x, gate, y);
}

Tensor attend(const QueriesKeysValues& x) {
  auto y = at::scaled_dot_product_attention(x.q.transpose(1, 2), x.k.transpose(1, 2), x.v.transpose(1, 2));
  return y.transpose(1, 2).flatten(2);
}

}  // namespace

// ---- Modulation -----------------------------------------------------------------------------------------------------

std::vector<Modulation> AdaLayerNormZero::operator()(const Tensor& emb) const {
  auto pieces = linear(emb).unsqueeze(1).chunk(3 * layers, -1);
  std::vector<Modulation> modulations;
  for (int64_t i = 0; i < layers; ++i) modulations.push_back({pieces[3 * i], pieces[3 * i + 1], pieces[3 * i + 2]});
  return modulations;
}

Tensor AdaLayerNormContinuous::operator()(const Tensor& x, const Tensor& emb) const {
  auto pieces = linear(emb).unsqueeze(1).chunk(2, -1);
  return modulate(normalize(x), {.shift = pieces[1], .scale = pieces[0]});
}

// ---- Attention ------------------------------------------------------------------------------------------------------

QueriesKeysValues AttentionSide::operator()(const Placed& x) const {
  auto split = [&](const Tensor& t) { return t.unflatten(-1, {c.heads, -1}); };
  QueriesKeysValues y{split(q(x)), split(k(x)), split(v(x))};
  if (norm_q) y.q = (*norm_q)(y.q);
  if (norm_k) y.k = (*norm_k)(y.k);
  return y;
}

Tensor ImageAttention::operator()(const Placed& x) const { return to_out({attend(image(x)), x.place}); }

JointStates JointAttention::operator()(const JointStates& x) const {
  auto a = image({x.image, x.place}), b = text({x.text, kText});
  auto y = attend({at::cat({a.q, b.q}, 1), at::cat({a.k, b.k}, 1), at::cat({a.v, b.v}, 1)});
  auto parts = y.split_with_sizes({x.image.size(1), x.text.size(1)}, 1);
  return {to_out({parts[0], x.place}), to_add_out ? (*to_add_out)({parts[1], kText}) : Tensor(), x.place};
}

// ---- The block ------------------------------------------------------------------------------------------------------

Tensor GeluFeedForward::operator()(const Placed& x) const {
  return out({activate(Activation::gelu_tanh, in(x)), x.place});
}

JointStates JointTransformerBlock::operator()(JointStates x, const Tensor& emb) const {
  auto of_image = norm1(emb);
  auto of_text = norm1_context ? (*norm1_context)(emb) : std::vector<Modulation>();

  auto normed = normalize(x.image);
  auto alone = attn2 ? (*attn2)({modulate(normed, of_image[2]), x.place}) : Tensor();
  auto together =
      attn({.image = modulate(std::move(normed), of_image[0]),
            .text = norm1_context ? modulate(normalize(x.text), of_text[0]) : (*norm1_context_last)(x.text, emb),
            .place = x.place});

  x.image = add_gated(std::move(x.image), of_image[0].gate, together.image);
  if (attn2) x.image = add_gated(std::move(x.image), of_image[2].gate, alone);
  x.image = add_gated(std::move(x.image), of_image[1].gate, ff({modulate(normalize(x.image), of_image[1]), x.place}));
  if (!ff_context) return {.image = std::move(x.image), .text = {}, .place = x.place};

  x.text = add_gated(std::move(x.text), of_text[0].gate, together.text);
  x.text =
      add_gated(std::move(x.text), of_text[1].gate, (*ff_context)({modulate(normalize(x.text), of_text[1]), kText}));
  return x;
}

}  // namespace lora
