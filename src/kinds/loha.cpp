// LoHa (Hyeon-Woo et al. 2021, arXiv:2108.06098, as in LyCORIS): ΔW = scale · (w1_a w1_b) ∘ (w2_a w2_b), for
// convolutions with a core (t1, t2) between the factors or without.
#include <ATen/ATen.h>

#include <algorithm>

#include "core/check.h"
#include "kinds/builtin.h"
#include "kinds/product.h"

namespace lora {

namespace {

constexpr std::string_view kW1a = "hada_w1_a", kW1b = "hada_w1_b", kW2a = "hada_w2_a", kW2b = "hada_w2_b";
constexpr std::string_view kCore1 = "hada_t1", kCore2 = "hada_t2";

// w_a [out, r] and w_b [r, in·kh·kw]; with cores [r, r, kh, kw] they are [r, out] and [r, in]. Trailing dimensions
// (OneTrainer's) do not matter.
constexpr TensorName kNames[] = {
    {kW1a, ".hada_w1_a", ".hada_w1_a"}, {kW1b, ".hada_w1_b", ".hada_w1_b"}, {kW2a, ".hada_w2_a", ".hada_w2_a"},
    {kW2b, ".hada_w2_b", ".hada_w2_b"}, {kCore1, ".hada_t1", ".hada_t1"},   {kCore2, ".hada_t2", ".hada_t2"},
};

Tensor half(const Tensor& a, const Tensor& b, const Tensor& core) {
  if (core.defined()) return at::mm(float_matrix(a).t(), with_core(core, b));
  return at::mm(float_matrix(a), float_matrix(b));
}

Tensor dense(const LayerTensors& t, const Tensor&) {
  return half(get(t, kW1a), get(t, kW1b), get(t, kCore1)).mul_(half(get(t, kW2a), get(t, kW2b), get(t, kCore2)));
}

class Loha final : public Kind {
 public:
  std::span<const TensorName> names() const override { return kNames; }
  std::string_view name() const override { return "LoHa"; }
  std::string missing(const LayerTensors& t) const override {
    if (auto missing = missing_among(t, {kW1a, kW1b, kW2a, kW2b}); !missing.empty()) return missing;
    return t.contains(kW1a) ? missing_among(t, {kCore1, kCore2}) : "no hada_w1_a";
  }

  int64_t rank(const LayerTensors& t) const override { return size_of(t, kW1b, 0); }
  WeightSize size(const LayerTensors& t) const override {
    WeightSize size{.rows = size_of(t, kW1a, rows(t, kCore1)), .columns = columns_of(t, kW1b), .kernel = {}};
    if (auto core = get(t, kCore1); core.defined() && core.dim() == 4) {
      size.kernel = {core.size(2), core.size(3)};
      size.columns *= core.size(2) * core.size(3);
    }
    return size;
  }
  int row_dim(const LayerTensors& t, std::string_view suffix, const std::string&) const override {
    return suffix == kW1a ? rows(t, kCore1) : suffix == kW2a ? rows(t, kCore2) : -1;
  }

  std::shared_ptr<const Delta> make(const LoraLayer& layer, const Site& site, const MakeOptions& o) const override {
    check_matrix(site, "LoHa", o.label);
    auto form = form_of(layer, o.label);
    if (site.geometry.groups > 1) form.up = form.down = Tensor();
    return std::make_shared<ProductDelta>(std::move(form), site, o.label);
  }
  std::span<const std::string_view> multiplied() const override {
    static constexpr std::string_view kFactors[] = {kW1a, kCore1, kW1b, kW2a, kCore2, kW2b};
    return kFactors;
  }
  Effect change(const LoraLayer& layer) const override { return change_of(form_of(layer, layer.name())); }

 private:
  static int rows(const LayerTensors& t, std::string_view core) { return t.contains(core) ? 1 : 0; }

  ProductDelta::Form form_of(const LoraLayer& layer, const std::string& label) const {
    const auto& t = layer.tensors;
    auto w1_a = get(t, kW1a), w2_a = get(t, kW2a);
    auto b1 = float_matrix(get(t, kW1b)), b2 = float_matrix(get(t, kW2b));
    bool core = t.contains(kCore1);
    check(w1_a.size(core) == w2_a.size(core) && b1.size(1) == b2.size(1), ErrorKind::bad_shape,
          "{}: hada_w1 and hada_w2 are of different sizes", label);
    ProductDelta::Form form{
        .algorithm = "loha", .tensors = t, .rank = rank(t), .strength = strength_of(layer, rank(t)), .dense = dense};
    if (core) return form;
    // Products by elements of two sums of r products are sums of r² products of their factors.
    auto a1 = float_matrix(w1_a), a2 = float_matrix(w2_a);
    if (a1.size(1) * a2.size(1) * 2 <= std::min(a1.size(0), b1.size(1))) {
      form.up = (a1.unsqueeze(2) * a2.unsqueeze(1)).flatten(1);
      form.down = (b1.unsqueeze(1) * b2.unsqueeze(0)).flatten(0, 1);
    }
    return form;
  }
};

}  // namespace

const Kind& loha_kind() {
  static const Loha kind;
  return kind;
}

}  // namespace lora
