// GLoRA (Chavan et al. 2023, arXiv:2306.07967, as in LyCORIS): ΔW = scale · (b1 b2 + W a1 a2), and the transposed form
// of older files, scale · (b2 b1 + W a2 a1).

#include <ATen/ATen.h>

#include "core/check.h"
#include "kinds/builtin.h"
#include "kinds/product.h"

namespace lora {

namespace {

constexpr std::string_view kA1 = "a1.weight", kA2 = "a2.weight", kB1 = "b1.weight", kB2 = "b2.weight";

// a1 [in, r], a2 [r, in], b1 [out, r], b2 [r, in·kh·kw], or all transposed.
constexpr TensorName kNames[] = {
    {kA1, ".a1.weight", ""}, {kA2, ".a2.weight", ""}, {kB1, ".b1.weight", ""}, {kB2, ".b2.weight", ""}};

// Whether all four are there and have two dimensions or more.
bool are_matrices(const LayerTensors& t) {
  for (auto name : {kA1, kA2, kB1, kB2})
    if (auto tensor = get(t, name); !tensor.defined() || tensor.dim() < 2) return false;
  return true;
}

// Which of the two forms: they differ where in and out do; else by where the rank, the smaller number, stands.
bool is_old(const LayerTensors& t) {
  auto a1 = get(t, kA1), a2 = get(t, kA2), b1 = get(t, kB1), b2 = get(t, kB2);
  auto fits_old = b2.size(1) == a1.size(0) && b1.size(0) == a1.size(0) && a2.size(1) == a1.size(0);
  auto fits_new = b2.size(0) == a1.size(1) && b1.size(1) == a1.size(1) && a2.size(0) == a1.size(1);
  return fits_old && (!fits_new || a2.size(0) >= a2.size(1));
}

// The factors under their names of today: what comes out of W first, whatever the file calls it.
struct Named {
  Tensor a1, a2, b1, b2;  // [in, r], [r, in], [out, r], [r, in·kh·kw]
};

Named named(const LayerTensors& t) {
  auto matrix = [&](std::string_view name) { return float_matrix(get(t, name)); };
  if (is_old(t)) return {matrix(kA2), matrix(kA1), matrix(kB2), matrix(kB1)};
  return {matrix(kA1), matrix(kA2), matrix(kB1), matrix(kB2)};
}

Tensor dense(const LayerTensors& tensors, const Tensor& base) {
  auto f = named(tensors);
  auto W = base.to(at::kFloat).reshape({base.size(0), base.size(1), -1});  // [out, in, positions]
  auto through = at::einsum("ojp,jr,ri->oip", {W, f.a1, f.a2});
  return at::addmm(through.flatten(1), f.b1, f.b2);
}

class Glora final : public Kind {
 public:
  std::span<const TensorName> names() const override { return kNames; }
  std::string_view name() const override { return "GLoRA"; }
  std::string missing(const LayerTensors& t) const override { return missing_among(t, {kA1, kA2, kB1, kB2}); }
  int64_t rank(const LayerTensors& t) const override { return are_matrices(t) ? named(t).a2.size(0) : 0; }
  WeightSize size(const LayerTensors& t) const override {
    if (!are_matrices(t)) return {};
    bool old = is_old(t);
    return {.rows = size_of(t, old ? kB2 : kB1, 0), .columns = columns_of(t, old ? kB1 : kB2), .kernel = {}};
  }
  bool depends_on_base() const override { return true; }
  int row_dim(const LayerTensors& t, std::string_view suffix, const std::string&) const override {
    return are_matrices(t) && suffix == (is_old(t) ? kB2 : kB1) ? 0 : -1;
  }

  std::shared_ptr<const Delta> make(const LoraLayer& layer, const Site& site, const MakeOptions& o) const override {
    check_matrix(site, "GLoRA", o.label);
    check(site.geometry.groups == 1, ErrorKind::unsupported, "{}: GLoRA on a convolution in groups", o.label);
    auto f = named(layer.tensors);
    auto in = site.weight.size(1), r = f.a2.size(0);
    check(f.a1.size(0) == in && f.a2.size(1) == in && f.a1.size(1) == r && f.b1.size(1) == f.b2.size(0),
          ErrorKind::bad_shape, "{}: a1 {}, a2 {}, b1 {} and b2 {} do not go together on a layer {} → {}", o.label,
          c10::str(f.a1.sizes()), c10::str(f.a2.sizes()), c10::str(f.b1.sizes()), c10::str(f.b2.sizes()), in,
          site.weight.size(0));
    ProductDelta::Form form{
        .algorithm = "glora", .tensors = layer.tensors, .rank = r, .strength = strength_of(layer, r), .dense = dense};
    auto base = o.base(site);
    if (base.numel() == base.size(0) * in) {  // one position: W a1 is the up factor of a2
      form.up = at::cat({f.b1, at::mm(float_matrix(base).to(f.a1.device()), f.a1)}, 1);
      form.down = at::cat({f.b2, f.a2}, 0);
    }
    return std::make_shared<ProductDelta>(std::move(form), site, o.label);
  }
};

}  // namespace

const Kind& glora_kind() {
  static const Glora kind;
  return kind;
}

}  // namespace lora
