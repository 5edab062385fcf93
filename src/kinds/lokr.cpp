// LoKr (Edalati et al. 2022, arXiv:2212.10650, as in LyCORIS and PEFT): ΔW = scale · W1 ⊗ W2, each whole or a product.

#include <ATen/ATen.h>

#include <algorithm>

#include "core/check.h"
#include "kinds/builtin.h"
#include "kinds/kinds.h"
#include "kinds/product.h"

namespace lora {

namespace {

constexpr std::string_view kW1 = "lokr_w1", kW1a = "lokr_w1_a", kW1b = "lokr_w1_b";
constexpr std::string_view kW2 = "lokr_w2", kW2a = "lokr_w2_a", kW2b = "lokr_w2_b", kCore = "lokr_t2";
// Ours: the layer is rows [from, to) of the product, where a fused layer's first factor cannot be cut.
constexpr std::string_view kRows = "lokr_rows";

// w1 [a, c] or w1_a w1_b; w2 [b, d, …] or w2_a w2_b [r, d·kh·kw]; or with a core [r, r, kh, kw], w2_a [r, b] and w2_b
// [r, d].
constexpr TensorName kNames[] = {
    {kW1, ".lokr_w1", ".lokr_w1"},      {kW1a, ".lokr_w1_a", ".lokr_w1_a"},
    {kW1b, ".lokr_w1_b", ".lokr_w1_b"}, {kW2, ".lokr_w2", ".lokr_w2"},
    {kW2a, ".lokr_w2_a", ".lokr_w2_a"}, {kW2b, ".lokr_w2_b", ".lokr_w2_b"},
    {kCore, ".lokr_t2", ".lokr_t2"},    {.ours = kRows, .kohya = "", .peft = ".lokr_rows", .is_factor = false},
};

// A matrix as left · right; right undefined where it is whole.
struct Factored {
  Tensor left, right;

  Tensor whole() const { return right.defined() ? at::mm(left, right) : left; }
};

// ATen's own takes a view that strides beside a dimension of one do not allow.
Tensor kronecker(const Tensor& a, const Tensor& b) {
  return (a.unsqueeze(1).unsqueeze(3) * b.unsqueeze(0).unsqueeze(2))
      .reshape({a.size(0) * b.size(0), a.size(1) * b.size(1)});
}

Factored first(const LayerTensors& t) {
  if (auto w1 = get(t, kW1); w1.defined()) return {float_matrix(w1), {}};
  return {float_matrix(get(t, kW1a)), float_matrix(get(t, kW1b))};
}

Factored second(const LayerTensors& t) {
  if (auto w2 = get(t, kW2); w2.defined()) return {float_matrix(w2), {}};
  auto a = float_matrix(get(t, kW2a)), b = float_matrix(get(t, kW2b));
  if (auto core = get(t, kCore); core.defined()) return {a.t(), with_core(core, b)};
  return {a, b};
}

// The layer's rows of the product; all of them where it has no rows of its own.
Tensor own_rows(const LayerTensors& t, const Tensor& whole) {
  auto rows = get(t, kRows);
  return rows.defined() ? whole.slice(0, rows[0].item<int64_t>(), rows[1].item<int64_t>()).contiguous() : whole;
}

Tensor dense(const LayerTensors& t, const Tensor&) {
  return own_rows(t, kronecker(first(t).whole(), second(t).whole()));
}

// (L1 R1) ⊗ (L2 R2) = (L1 ⊗ L2) (R1 ⊗ R2), with the identity for what is whole: on the side that leaves the shorter
// rank.
std::pair<Tensor, Tensor> factors_of_product(const Factored& w1, const Factored& w2) {
  if (w1.right.defined() && w2.right.defined()) return {kronecker(w1.left, w2.left), kronecker(w1.right, w2.right)};
  if (w2.right.defined())
    return {kronecker(w1.left, w2.left), kronecker(at::eye(w1.left.size(1), w1.left.options()), w2.right)};
  if (w1.right.defined())
    return {kronecker(w1.left, at::eye(w2.left.size(0), w2.left.options())), kronecker(w1.right, w2.left)};
  return {};
}

// What the rank of factors_of_product() would be: known before they are made, which are large where they do not pay.
int64_t rank_of_factors(const Factored& w1, const Factored& w2) {
  if (w1.right.defined() && w2.right.defined()) return w1.right.size(0) * w2.right.size(0);
  if (w2.right.defined()) return w1.left.size(1) * w2.right.size(0);
  return w1.right.defined() ? w1.right.size(0) * w2.left.size(0) : 0;
}

class Lokr final : public Kind {
 public:
  std::span<const TensorName> names() const override { return kNames; }
  std::string_view name() const override { return "LoKr"; }
  std::string missing(const LayerTensors& t) const override {
    if (auto missing = missing_among(t, {kW1a, kW1b}); !missing.empty()) return missing;
    if (auto missing = missing_among(t, {kW2a, kW2b}); !missing.empty()) return missing;
    if (!t.contains(kW1) && !t.contains(kW1a)) return "no lokr_w1";
    return t.contains(kW2) || t.contains(kW2a) ? "" : "no lokr_w2";
  }

  // Of the factors of W2, or else of W1; 0 where neither has any.
  int64_t rank(const LayerTensors& t) const override { return size_of(t, t.contains(kW2b) ? kW2b : kW1b, 0); }
  WeightSize size(const LayerTensors& t) const override {
    WeightSize size{
        .rows = product_rows(t),
        .columns = columns_of(t, t.contains(kW1) ? kW1 : kW1b) * columns_of(t, t.contains(kW2) ? kW2 : kW2b),
        .kernel = {}};
    if (auto rows = get(t, kRows); rows.defined() && rows.numel() == 2)
      size.rows = rows.is_meta() ? 0 : (rows[1] - rows[0]).item<int64_t>();
    auto spatial = get(t, t.contains(kCore) ? kCore : kW2);
    if (spatial.defined() && spatial.dim() == 4) size.kernel = {spatial.size(2), spatial.size(3)};
    if (t.contains(kCore) && !size.kernel.empty()) size.columns *= size.kernel[0] * size.kernel[1];
    return size;
  }
  int row_dim(const LayerTensors& t, std::string_view suffix, const std::string&) const override {
    return (suffix == kW1 || suffix == kW1a) && !t.contains(kRows) ? 0 : -1;
  }

  std::shared_ptr<const Delta> make(const LoraLayer& layer, const Site& site, const MakeOptions& o) const override {
    check_matrix(site, "LoKr", o.label);
    check(!layer.tensors.contains(kW1) || !layer.tensors.contains(kW1a), ErrorKind::unsupported,
          "{}: tensors of two kinds, {} and {}", o.label, kW1, kW1a);
    auto form = form_of(layer);
    if (site.geometry.groups > 1) form.up = form.down = Tensor();
    return std::make_shared<ProductDelta>(std::move(form), site, o.label);
  }
  std::span<const std::string_view> multiplied() const override {
    static constexpr std::string_view kFactors[] = {kW1, kW1a, kW1b, kW2, kW2a, kW2b, kCore};
    return kFactors;
  }
  Effect change(const LoraLayer& layer) const override { return change_of(form_of(layer)); }

  // A first factor that cannot be cut stays whole, and each part remembers its rows.
  LoraLayer cut(const LoraLayer& whole, RowSlice slice, const std::string& label) const override {
    if (size_of(whole.tensors, whole.tensors.contains(kW1) ? kW1 : kW1a, 0) % slice.of == 0)
      return Kind::cut(whole, slice, label);
    auto [from, to] = rows_of(product_rows(whole.tensors), slice, label);
    auto with_rows = whole;
    with_rows.tensors[std::string(kRows)] = at::tensor({from, to}, at::kLong);
    return Kind::cut(with_rows, slice, label);
  }
  bool same_inputs(const std::vector<SlicedLayer>& parts) const override {
    // Parts with rows of their own all have the whole product: the rows alone may differ.
    auto rows = get(parts.front().layer.tensors, kRows);
    auto alike = parts;
    for (auto& part : alike) {
      if (part.layer.tensors.contains(kRows) != rows.defined()) return false;
      if (rows.defined()) part.layer.tensors[std::string(kRows)] = rows;
    }
    return Kind::same_inputs(alike);
  }
  LoraLayer join(const std::vector<SlicedLayer>& parts, bool same_inputs, const std::string& label) const override {
    check(cover_all_rows(parts) || !parts.front().layer.tensors.contains(kRows), ErrorKind::unsupported,
          "{}: some of the layers that a Kronecker product is of are missing", label);
    auto joined = Kind::join(parts, same_inputs, label);
    joined.tensors.erase(std::string(kRows));
    return joined;
  }

 private:
  static int64_t product_rows(const LayerTensors& t) {
    auto left = size_of(t, t.contains(kW1) ? kW1 : kW1a, 0);
    return left * (t.contains(kW2) ? size_of(t, kW2, 0) : size_of(t, kW2a, t.contains(kCore) ? 1 : 0));
  }

  ProductDelta::Form form_of(const LoraLayer& layer) const {
    const auto& t = layer.tensors;
    auto w1 = first(t), w2 = second(t);
    auto all = size(t);
    ProductDelta::Form form{
        .algorithm = "lokr", .tensors = t, .rank = rank(t), .strength = strength_of(layer, rank(t)), .dense = dense};
    auto short_rank = rank_of_factors(w1, w2);
    if (short_rank > 0 && short_rank * 2 <= std::min(all.rows, all.columns)) {
      auto [up, down] = factors_of_product(w1, w2);
      form.up = own_rows(t, up);
      form.down = down;
    }
    return form;
  }
};

}  // namespace

const Kind& lokr_kind() {
  static const Lokr kind;
  return kind;
}

}  // namespace lora
