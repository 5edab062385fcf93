#include "kinds/lora.h"

#include <ATen/ATen.h>

#include "core/check.h"
#include "kinds/product.h"

namespace lora {

namespace {

// The first layer of an inpainting model takes a mask and a masked picture beside the latents, which its base's LoRA
// knows nothing of.
constexpr int64_t kLatents = 4, kInpainting = 9;

Tensor padded_to(const Site& site, const Tensor& A) {
  bool padded =
      site.kind == SiteKind::conv2d && A.dim() == 4 && A.size(1) == kLatents && site.weight.size(1) == kInpainting;
  return padded ? at::constant_pad_nd(A, {0, 0, 0, 0, 0, kInpainting - kLatents}) : A;
}

}  // namespace

Tensor with_tucker_core(const Tensor& A, const Tensor& core, const std::string& label) {
  check(core.dim() == 4 && A.size(0) == core.size(1) && A.numel() == A.size(0) * A.size(1), ErrorKind::bad_shape,
        "{}: lora_mid has shape {}, lora_down {}; [r, r, kh, kw] and [r, in, 1, 1] are wanted", label,
        c10::str(core.sizes()), c10::str(A.sizes()));
  return with_core(core, A).view({core.size(0), A.size(1), core.size(2), core.size(3)});
}

LoraFactors LoraFactors::fit(const Site& site, const Tensor& given_A, const Tensor& B, const Tensor& bias,
                             const std::string& label) {
  auto A = padded_to(site, given_A);
  auto wanted = site.weight.sizes();  // linear [out, in]; conv [out, in/groups, kh, kw]; embedding [num, dim]
  check(site.kind != SiteKind::norm, ErrorKind::unsupported, "{}: low-rank factors on a norm", label);
  // Their product would join the groups: no weight of the layer's shape could say it.
  check(site.geometry.groups == 1, ErrorKind::unsupported, "{}: low-rank factors on a convolution in {} groups", label,
        site.geometry.groups);
  check(A.dim() >= 2 && B.dim() >= 2, ErrorKind::bad_shape, "{}: factors of shapes {} and {} are no matrices", label,
        c10::str(A.sizes()), c10::str(B.sizes()));
  check(A.size(0) == B.size(1), ErrorKind::bad_shape,
        "{}: the down matrix has rank {} (shape {}), the up matrix {} (shape {}); the pair does not belong together{}",
        label, A.size(0), c10::str(A.sizes()), B.size(1), c10::str(B.sizes()),
        A.size(-1) == B.size(0) ? ", or both are transposed" : "");
  check(A.size(0) > 0, ErrorKind::bad_shape, "{}: factors of rank 0", label);

  int64_t in = A.numel() / A.size(0), out = B.numel() / B.size(1);
  int64_t site_in = site.weight.numel() / wanted[0], site_out = wanted[0];
  if (site.kind == SiteKind::embedding) site_in = wanted[0], site_out = wanted[1];
  check(in == site_in && out == site_out, ErrorKind::bad_shape,
        "{}: the adapter is for a layer {} → {}, the model's is {} → {}{}", label, in, out, site_in, site_out,
        A.size(0) == site_in && B.size(1) == site_out ? "; both factors are transposed" : "");
  check(!bias.defined() || bias.numel() == out, ErrorKind::bad_shape, "{}: a bias of shape {} for {} outputs", label,
        bias.defined() ? c10::str(bias.sizes()) : "", out);

  LoraFactors factors{.bias = bias.defined() ? bias.reshape({out}) : bias};
  if (site.kind == SiteKind::conv2d) {
    factors.A = A.reshape({A.size(0), wanted[1], wanted[2], wanted[3]});
    factors.B = B.reshape({out, A.size(0), 1, 1});
  } else {
    factors.A = A.reshape({A.size(0), in});
    factors.B = B.reshape({out, A.size(0)});
  }
  return factors;
}

LoraFactors LoraFactors::to(Device device, Dtype dtype) const {
  return {.A = A.to(device, dtype),
          .B = B.to(device, dtype),
          .bias = bias.defined() ? bias.to(device, dtype) : bias,
          .alpha = alpha,
          .scale = scale};
}

Effect LoraDelta::effect(double strength, const Tensor&) const {
  auto scale = strength * factors_.scale;
  return {.A = factors_.A,
          .B = factors_.B,
          .scale = scale,
          .bias = factors_.bias.defined() ? factors_.bias * scale : Tensor()};
}

StateDict LoraDelta::tensors() const {
  StateDict tensors{{"lora_A.weight", factors_.A}, {"lora_B.weight", factors_.B}};
  if (factors_.bias.defined()) tensors.set("lora_B.bias", factors_.bias);
  return tensors;
}

std::shared_ptr<const Delta> LoraDelta::to(Device device, Dtype dtype) const {
  return std::make_shared<LoraDelta>(factors_.to(device, dtype));
}

}  // namespace lora
