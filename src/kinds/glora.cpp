#include "kinds/glora.h"

#include <ATen/ATen.h>

#include "core/check.h"

namespace lora {

namespace {

// The factors under their names of today: what comes out of W first, whatever the file calls it.
struct Factors {
  Tensor a1, a2, b1, b2;  // [in, r], [r, in], [out, r], [r, in·kh·kw]
};

Factors factors(const StateDict& t) {
  auto matrix = [&](const char* name) { return float_matrix(t.at(name)); };
  if (is_old_glora(t.at("a1.weight"), t.at("a2.weight"), t.at("b1.weight"), t.at("b2.weight")))
    return {matrix("a2.weight"), matrix("a1.weight"), matrix("b2.weight"), matrix("b1.weight")};
  return {matrix("a1.weight"), matrix("a2.weight"), matrix("b1.weight"), matrix("b2.weight")};
}

Tensor dense(const StateDict& tensors, const Tensor& base) {
  auto f = factors(tensors);
  auto W = base.to(at::kFloat).reshape({base.size(0), base.size(1), -1});  // [out, in, positions]
  auto through = at::einsum("ojp,jr,ri->oip", {W, f.a1, f.a2});
  return at::addmm(through.flatten(1), f.b1, f.b2);
}

}  // namespace

bool is_old_glora(const Tensor& a1, const Tensor& a2, const Tensor& b1, const Tensor& b2) {
  auto fits_old = b2.size(1) == a1.size(0) && b1.size(0) == a1.size(0) && a2.size(1) == a1.size(0);
  auto fits_new = b2.size(0) == a1.size(1) && b1.size(1) == a1.size(1) && a2.size(0) == a1.size(1);
  return fits_old && (!fits_new || a2.size(0) >= a2.size(1));
}

int64_t glora_rank(const StateDict& tensors) { return factors(tensors).a2.size(0); }

std::shared_ptr<const Delta> make_glora(const Site& site, const StateDict& tensors, Strength strength,
                                        const Tensor& base, const std::string& label) {
  check_matrix(site, "GLoRA", label);
  check(site.geometry.groups == 1, ErrorKind::unsupported, "{}: GLoRA on a convolution in groups", label);
  auto f = factors(tensors);
  auto in = site.weight.size(1);
  check(f.a1.size(0) == in && f.a2.size(1) == in && f.a1.size(1) == f.a2.size(0) && f.b1.size(1) == f.b2.size(0),
        ErrorKind::bad_shape, "{}: a1 {}, a2 {}, b1 {} and b2 {} do not go together on a layer {} → {}", label,
        c10::str(f.a1.sizes()), c10::str(f.a2.sizes()), c10::str(f.b1.sizes()), c10::str(f.b2.sizes()), in,
        site.weight.size(0));
  ProductDelta::Form form{
      .algorithm = "glora", .tensors = tensors, .rank = f.a2.size(0), .strength = strength, .dense = dense};
  if (base.numel() == base.size(0) * in) {  // one position: W a1 is the up factor of a2
    form.up = at::cat({f.b1, at::mm(float_matrix(base).to(f.a1.device()), f.a1)}, 1);
    form.down = at::cat({f.b2, f.a2}, 0);
  }
  return std::make_shared<ProductDelta>(std::move(form), site, label);
}

}  // namespace lora
