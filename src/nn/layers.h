#pragma once
// The layers. A layer declares its site when it is made. Its members come from the config, its weights from the file.
#include <ATen/ATen.h>

#include "nn/applied.h"
#include "nn/scope.h"

namespace lora {

struct Linear {
  Scope s;
  int64_t in, out;
  bool bias = true;
  Site* site = s.site(SiteKind::linear, {out, in}, bias);

  Tensor operator()(const Placed& x) const { return linear(*site, x); }
};

struct Conv2d {
  Scope s;
  int64_t in, out, kernel = 3, stride = 1, padding = kernel / 2;
  bool bias = true;
  int64_t groups = 1;
  Site* site = s.site(SiteKind::conv2d, {out, in / groups, kernel, kernel}, bias,
                      {.stride = {stride, stride}, .padding = {padding, padding}, .groups = groups});

  Tensor operator()(const Tensor& x) const { return conv2d(*site, x); }
};

struct Embedding {
  Scope s;
  int64_t num, dim;
  Site* site = s.site(SiteKind::embedding, {num, dim}, kNoBias);

  Tensor operator()(const Placed& ids) const { return embedding(*site, ids); }
};

struct GroupNorm {
  Scope s;
  int64_t channels, groups = 32;
  double eps = 1e-5;
  Site* site = s.site(SiteKind::norm, {channels}, true);

  Tensor operator()(const Tensor& x) const {
    auto [weight, bias] = norm_weights(*site);
    return at::group_norm(x, groups, weight, bias, eps);
  }
};

struct LayerNorm {
  Scope s;
  int64_t channels;
  double eps = 1e-5;
  bool bias = true;
  Site* site = s.site(SiteKind::norm, {channels}, bias);

  Tensor operator()(const Tensor& x) const {
    auto [weight, shift] = norm_weights(*site);
    return at::layer_norm(x, {channels}, weight, shift, eps);
  }
};

// A layer norm without mean and bias. It is computed in float32 or higher precision. The result has the dtype of the
// weight, whatever the dtype of x is.
struct RMSNorm {
  Scope s;
  int64_t channels;
  double eps = 1e-6;
  Site* site = s.site(SiteKind::norm, {channels}, kNoBias);

  Tensor operator()(const Tensor& x) const {
    const auto& weight = norm_weights(*site).first;
    return at::rms_norm(x, {channels}, weight.to(x.scalar_type()), eps).to(weight.scalar_type());
  }
};

}  // namespace lora
