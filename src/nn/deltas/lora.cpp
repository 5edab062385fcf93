#include "nn/deltas/lora.h"

#include <ATen/ATen.h>

#include "core/check.h"

namespace lora {

std::pair<Tensor, Tensor> LoraDelta::fit(const Site& site, const Tensor& A, const Tensor& B, const std::string& label) {
  auto wanted = site.weight.sizes();  // linear [out, in]; conv [out, in/groups, kh, kw]
  check(site.kind == SiteKind::linear || site.kind == SiteKind::conv2d, ErrorKind::unsupported,
        "{}: low-rank factors on a layer that is neither linear nor a convolution", label);
  check(A.dim() >= 2 && B.dim() >= 2, ErrorKind::bad_shape, "{}: factors of shapes {} and {} are no matrices", label,
        c10::str(A.sizes()), c10::str(B.sizes()));
  check(A.size(0) == B.size(1), ErrorKind::bad_shape,
        "{}: the down matrix has rank {} (shape {}), the up matrix {} (shape {}); the pair does not belong together{}",
        label, A.size(0), c10::str(A.sizes()), B.size(1), c10::str(B.sizes()),
        A.size(-1) == B.size(0) ? ", or both are transposed" : "");

  int64_t in = A.numel() / A.size(0), out = B.numel() / B.size(1);
  int64_t site_in = site.weight.numel() / wanted[0];
  check(in == site_in && out == wanted[0] && B.numel() == out * B.size(1), ErrorKind::bad_shape,
        "{}: the adapter is for a layer {} → {}, the model's is {} → {}", label, in, out, site_in, wanted[0]);

  if (site.kind == SiteKind::linear) return {A.reshape({A.size(0), in}), B.reshape({out, A.size(0)})};
  return {A.reshape({A.size(0), wanted[1], wanted[2], wanted[3]}), B.reshape({out, A.size(0), 1, 1})};
}

StateDict LoraDelta::tensors() const { return {{"lora_A.weight", factors_.A}, {"lora_B.weight", factors_.B}}; }

std::shared_ptr<const Delta> LoraDelta::to(Device device, Dtype dtype) const {
  return std::make_shared<LoraDelta>(factors_.A.to(device, dtype), factors_.B.to(device, dtype), alpha_,
                                     factors_.scale);
}

}  // namespace lora
