// Effects added up, in one table: every form that a kind of adapter gives, on every kind of site, at several strengths,
// over blocks of rows, alone and beside another, against the formula in float64.
#include "nn/effect.h"

#include <ATen/ATen.h>

#include "nn/applied.h"
#include "nn/run.h"
#include "support/compare.h"

namespace lora {

namespace {

enum class Form { product, product_and_bias, rows_and_product, columns_and_product, rows, weight, bias };
constexpr Form kForms[] = {
    Form::product, Form::product_and_bias, Form::rows_and_product, Form::columns_and_product, Form::rows, Form::weight,
    Form::bias};
const char* name_of(Form form) {
  constexpr const char* kNames[] = {
      "LoRA", "LoRA with a bias", "DoRA by outputs", "DoRA by inputs", "IA3", "difference", "bias"};
  return kNames[int(form)];
}

struct Place {
  const char* name;
  SiteKind kind;
  std::vector<int64_t> shape;
};
const Place kPlaces[] = {{"linear", SiteKind::linear, {21, 40}},
                         {"convolution", SiteKind::conv2d, {21, 5, 3, 3}},
                         {"1 x 1 convolution", SiteKind::conv2d, {21, 40, 1, 1}},
                         {"embedding", SiteKind::embedding, {21, 40}},
                         {"norm", SiteKind::norm, {21}}};

// Whether a kind of that form is for such a layer.
bool exists(Form form, SiteKind kind) {
  if (kind == SiteKind::norm) return form == Form::weight || form == Form::bias;
  if (kind == SiteKind::embedding) return form == Form::product;
  return true;
}

Effect make(Form form, const Place& place, double strength, Dtype dtype) {
  const auto& s = place.shape;
  Effect e;
  auto out = s[0], in = s.size() > 1 ? s[1] : 1;
  if (form <= Form::columns_and_product) {
    auto A_shape = s, B_shape = std::vector<int64_t>(s.size(), 1);
    A_shape[0] = 3, B_shape[0] = out, B_shape[1] = 3;
    if (place.kind == SiteKind::embedding) A_shape = {3, s[0]}, B_shape = {s[1], 3};
    e.A = at::randn(A_shape).to(dtype), e.B = at::randn(B_shape).to(dtype), e.scale = 0.4 * strength;
  }
  if (form == Form::rows_and_product || form == Form::rows) e.gain = 1 + strength * at::randn({out});
  if (form == Form::columns_and_product) e.input_gain = 1 + strength * at::randn({in});
  if (form == Form::weight) e.weight = strength * at::randn(s);
  if (form == Form::bias || form == Form::product_and_bias) e.bias = strength * at::randn({out});
  return e;
}

Tensor by(const Tensor& factor, const Tensor& W, int64_t dim) {
  std::vector<int64_t> shape(size_t(W.dim()), 1);
  shape[size_t(dim)] = factor.size(0);
  return factor.to(at::kDouble).view(shape);
}

// What an effect adds to a weight, in float64, from the formula of Effect.
Tensor change(const Effect& e, SiteKind kind, const Tensor& W) {
  auto sum = at::zeros_like(W);
  if (e.gain.defined()) sum = sum + W * (by(e.gain, W, 0) - 1);
  if (e.input_gain.defined()) sum = sum + W * (by(e.input_gain, W, 1) - 1);
  if (e.weight.defined()) sum = sum + e.weight.to(at::kDouble);
  if (!e.A.defined()) return sum;
  auto product = e.scale * at::mm(e.B.to(at::kDouble).flatten(1), e.A.to(at::kDouble).flatten(1));
  return sum + (kind == SiteKind::embedding ? product.t() : product.view(W.sizes()));
}

// One rounding of the largest values, and float32's own over the sum.
double tolerance(Dtype dtype) {
  switch (dtype) {
    case at::kDouble: return 1e-13;
    case at::kFloat: return 1e-6;
    case at::kHalf: return std::exp2(-11);
    default: return std::exp2(-8);
  }
}

}  // namespace

TEST(Effects, AddUpAsTheFormulaSays) {
  at::manual_seed(3);
  for (const auto& place : kPlaces)
    for (auto first : kForms)
      for (auto second : kForms)
        for (auto dtype : {at::kFloat, at::kHalf, at::kBFloat16, at::kDouble})
          for (double strength : {1.0, -0.7}) {
            if (!exists(first, place.kind) || !exists(second, place.kind)) continue;
            SCOPED_TRACE(fmt::format("{} and {} on a {}, {}, {}", name_of(first), name_of(second), place.name,
                                     to_string(dtype), strength));
            auto W = at::randn(place.shape).to(dtype);
            std::vector<Effect> effects{make(first, place, strength, dtype), make(second, place, 0.5, dtype)};
            auto wide = W.to(at::kDouble), wanted = wide;
            for (const auto& e : effects) wanted = wanted + change(e, place.kind, wide);

            auto sum = sum_of(effects, place.kind, W);
            expect_close(with_effects(sum, W, W), wanted, tolerance(dtype));
            // Block by block, over the base's own memory.
            auto own = W.clone();
            auto rows = as_matrix(own);
            auto memory = RowSums::of(rows.numel(), rows);
            for (int64_t begin = 0; begin < 21; begin += 8)
              add_rows(sum, rows, rows, rows, begin, std::min<int64_t>(begin + 8, 21), memory);
            EXPECT_TRUE(same_bits(own, with_effects(sum, W, W)));
            // Without the products, over what something else made of the weight.
            auto rest = wide + 1;
            for (auto e : effects) {
              e.A = e.B = Tensor();
              rest = rest + change(e, place.kind, wide);
            }
            auto beyond = sum_of(effects, place.kind, W, Products::without);
            auto other = (wide + 1).to(dtype);
            expect_close(with_effects(beyond, other, W), rest + (other.to(at::kDouble) - wide - 1), tolerance(dtype));
            // The biases.
            Tensor bias;
            for (const auto& e : effects)
              if (e.bias.defined()) bias = bias.defined() ? bias + e.bias : e.bias;
            ASSERT_EQ(sum.bias.defined(), bias.defined());
            if (bias.defined()) expect_close(sum.bias, bias, 1e-6);
          }
}

// A converted copy is rounded to the model's dtype before anything is added, as a load rounds it.
TEST(Effects, StartFromTheBaseAsItIsLoaded) {
  at::manual_seed(4);
  auto stored = at::randn({16, 24});
  auto loaded = stored.to(at::kBFloat16);
  Effect e{.A = at::randn({2, 24}).to(at::kBFloat16), .B = at::randn({16, 2}).to(at::kBFloat16), .scale = 0.5};
  auto sum = sum_of({e}, SiteKind::linear, loaded);
  auto from_file = at::empty_like(loaded), from_memory = at::empty_like(loaded);
  add_rows(sum, stored, stored, from_file, 0, 16, {});
  add_rows(sum, loaded, loaded, from_memory, 0, 16, {});
  EXPECT_TRUE(same_bits(from_file, from_memory));
  add_rows({}, stored, stored, from_file, 0, 16, {});
  EXPECT_TRUE(same_bits(from_file, loaded));
}

}  // namespace lora
