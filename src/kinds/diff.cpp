// A full difference of a layer's weight and bias: kohya's and LyCORIS' `diff` and `diff_b`, and norms, which have no
// other form. Beside another kind, `diff_b` is an addition to it.
#include "kinds/diff.h"

#include <ATen/ATen.h>

#include "core/check.h"
#include "kinds/builtin.h"
#include "kinds/wrapped.h"

namespace lora {

namespace {

constexpr std::string_view kDifference = "diff";

constexpr TensorName kNames[] = {{kDifference, ".diff", ""}, {kDifference, ".w_norm", ""}};
constexpr TensorName kBiasNames[] = {{kBiasDifference, ".diff_b", ""}, {kBiasDifference, ".b_norm", ""}};
constexpr TensorName kWholeNames[] = {{kWholeBias, "", ".base_layer.bias", true}};

// kohya's family has other names for a norm's.
bool is_norm(const LayerTensors& t) {
  auto diff = get(t, kDifference);
  return diff.defined() ? diff.dim() == 1 : t.size() == 1 && t.contains(kBiasDifference);
}

// A linear layer's and a 1×1 convolution's weights stand for each other.
std::vector<int64_t> without_ones(at::IntArrayRef sizes) {
  auto kept = sizes.vec();
  std::erase(kept, 1);
  return kept;
}

class DiffDelta : public Delta {
 public:
  // diff of the site's weight's numbers, bias of its bias'; either may be undefined. Throws Error{bad_shape}.
  DiffDelta(const Site& site, const Tensor& diff, const Tensor& bias, const std::string& label);

  const char* algorithm() const override { return "diff"; }
  int64_t rank() const override { return 0; }
  double alpha() const override { return 0; }
  double scale() const override { return 1; }
  bool has_bias() const override { return bias_.defined(); }
  Device device() const override { return (diff_.defined() ? diff_ : bias_).device(); }
  bool is_dense() const override { return diff_.defined(); }
  Effect effect(double strength, const Tensor& base) const override;
  LayerTensors tensors() const override;
  std::shared_ptr<const Delta> to(Device device, Dtype dtype) const override;

 private:
  Tensor diff_, bias_;
};

DiffDelta::DiffDelta(const Site& site, const Tensor& diff, const Tensor& bias, const std::string& label) {
  check(!diff.defined() || without_ones(diff.sizes()) == without_ones(site.weight.sizes()), ErrorKind::bad_shape,
        "{}: the difference has shape {}, the layer's weight {}", label, diff.defined() ? c10::str(diff.sizes()) : "",
        c10::str(site.weight.sizes()));
  auto out = site.weight.size(0);
  check(!bias.defined() || bias.numel() == out, ErrorKind::bad_shape,
        "{}: the bias' difference has shape {}, {} outputs are wanted", label,
        bias.defined() ? c10::str(bias.sizes()) : "", out);
  if (diff.defined()) diff_ = diff.reshape(site.weight.sizes());
  if (bias.defined()) bias_ = bias.reshape({out});
}

Effect DiffDelta::effect(double strength, const Tensor&) const {
  Effect effect;
  if (diff_.defined()) effect.weight = diff_.to(at::kFloat) * strength;
  if (bias_.defined()) effect.bias = bias_.to(at::kFloat) * strength;
  return effect;
}

LayerTensors DiffDelta::tensors() const {
  LayerTensors tensors;
  if (diff_.defined()) tensors.emplace(kDifference, diff_);
  if (bias_.defined()) tensors.emplace(kBiasDifference, bias_);
  return tensors;
}

std::shared_ptr<const Delta> DiffDelta::to(Device device, Dtype dtype) const {
  auto moved = std::make_shared<DiffDelta>(*this);
  if (diff_.defined()) moved->diff_ = diff_.to(device, dtype);
  if (bias_.defined()) moved->bias_ = bias_.to(device, dtype);
  return moved;
}

class BiasedDelta final : public WrappedDelta {
 public:
  // bias: as many numbers as the site has outputs. Throws Error{bad_shape}.
  BiasedDelta(std::shared_ptr<const Delta> inner, const Tensor& bias, const Site& site, const std::string& label);

  bool has_bias() const override { return true; }
  Effect effect(double strength, const Tensor& base) const override;
  LayerTensors tensors() const override;
  std::shared_ptr<const Delta> to(Device device, Dtype dtype) const override;

 private:
  Tensor bias_;
};

BiasedDelta::BiasedDelta(std::shared_ptr<const Delta> inner, const Tensor& bias, const Site& site,
                         const std::string& label)
    : WrappedDelta(std::move(inner)) {
  auto out = site.weight.size(0);
  check(bias.numel() == out, ErrorKind::bad_shape, "{}: the bias' difference has shape {}, {} outputs are wanted",
        label, c10::str(bias.sizes()), out);
  bias_ = bias.reshape({out}).to(site.weight.device(), site.weight.scalar_type());
}

Effect BiasedDelta::effect(double strength, const Tensor& base) const {
  auto effect = inner_->effect(strength, base);
  auto bias = bias_.to(at::kFloat) * strength;
  effect.bias = effect.bias.defined() ? effect.bias + bias : bias;
  return effect;
}

LayerTensors BiasedDelta::tensors() const {
  auto tensors = inner_->tensors();
  tensors.emplace(kBiasDifference, bias_);
  return tensors;
}

std::shared_ptr<const Delta> BiasedDelta::to(Device device, Dtype dtype) const {
  auto moved = std::make_shared<BiasedDelta>(*this);
  moved->inner_ = inner_->to(device, dtype);
  moved->bias_ = bias_.to(device, dtype);
  return moved;
}

// What a strength of 1 adds to the site's bias. Undefined for nothing.
Tensor bias_change(const LoraLayer& layer, const Site& site, const MakeOptions& o) {
  auto difference = get(layer.tensors, kBiasDifference), whole = get(layer.tensors, kWholeBias);
  if (!whole.defined()) return difference;
  check(!difference.defined(), ErrorKind::unsupported, "{}: both {} and {}, which exclude each other", o.label,
        kBiasDifference, kWholeBias);
  auto base = o.base_bias(site);
  check(base.defined() && base.numel() == whole.numel(), ErrorKind::bad_shape,
        "{}: {} has shape {}; the model's layer has {}", o.label, kWholeBias, c10::str(whole.sizes()),
        base.defined() ? fmt::format("a bias of {} numbers", base.numel()) : "no bias");
  return whole.reshape(base.sizes()).to(base.device(), at::kFloat) - base.to(at::kFloat);
}

class Diff final : public Kind {
 public:
  std::span<const TensorName> names() const override { return kNames; }
  std::string_view name() const override { return "full difference"; }
  std::string full_name(const LayerTensors& t) const override {
    return std::string(t.contains(kDifference) ? name() : "bias");
  }
  std::string_view spoken(std::string_view) const override { return "full differences"; }
  bool is(const LayerTensors& t) const override {
    bool is_bias = t.contains(kBiasDifference) || t.contains(kWholeBias);
    return t.contains(kDifference) || (t.size() == 1 && is_bias);
  }
  std::string missing(const LayerTensors&) const override { return ""; }

  WeightSize size(const LayerTensors& t) const override {
    auto diff = get(t, kDifference);
    if (!diff.defined()) return {.rows = size_of(t, t.contains(kWholeBias) ? kWholeBias : kBiasDifference, 0)};
    WeightSize size{size_of(t, kDifference, 0), columns_of(t, kDifference), {}};
    if (diff.dim() == 4) size.kernel = {diff.size(2), diff.size(3)};
    return size;
  }
  bool has_strength() const override { return false; }
  bool has_own_bias() const override { return true; }
  int row_dim(const LayerTensors&, std::string_view, const std::string&) const override { return 0; }
  std::string_view kohya_end(const LayerTensors& t, std::string_view) const override {
    return kNames[is_norm(t) ? 1 : 0].kohya;
  }

  std::shared_ptr<const Delta> make(const LoraLayer& layer, const Site& site, const MakeOptions& o) const override {
    const DiffDelta delta(site, get(layer.tensors, kDifference), bias_change(layer, site, o), o.label);
    return delta.to(site.weight.device(), site.weight.scalar_type());
  }
  Effect change(const LoraLayer& layer) const override {
    auto t = get(layer.tensors, layer.tensors.contains(kDifference) ? kDifference : kBiasDifference);
    if (!t.defined()) return {};
    return {.weight = (t.dim() > 1 ? t.flatten(1) : t).to(at::kFloat)};
  }
  Factors factors(const LayerTensors& t) const override {
    auto diff = get(t, kDifference);
    return diff.defined() && diff.dim() > 1 ? Factors::nearly : Factors::never;
  }
};

class BiasDifference final : public Addition {
 public:
  std::span<const TensorName> names() const override { return kBiasNames; }
  std::string_view spoken(std::string_view) const override { return "full differences"; }
  int row_dim(const LayerTensors&, std::string_view, const std::string&) const override { return 0; }
  std::string_view kohya_end(const LayerTensors& t, std::string_view) const override {
    return kBiasNames[is_norm(t) ? 1 : 0].kohya;
  }
  std::shared_ptr<const Delta> around(std::shared_ptr<const Delta> delta, const Kind& kind, const LoraLayer& layer,
                                      const Site& site, const MakeOptions& o) const override {
    if (kind.has_own_bias()) return delta;
    return std::make_shared<BiasedDelta>(std::move(delta), get(layer.tensors, kBiasDifference), site, o.label);
  }
};

class WholeBias final : public Addition {
 public:
  std::span<const TensorName> names() const override { return kWholeNames; }
  std::string_view spoken(std::string_view) const override { return "whole biases"; }
  bool depends_on_base() const override { return true; }
  int row_dim(const LayerTensors&, std::string_view, const std::string&) const override { return 0; }
  bool zero_is_none(std::string_view) const override { return false; }
  std::shared_ptr<const Delta> around(std::shared_ptr<const Delta> delta, const Kind& kind, const LoraLayer& layer,
                                      const Site& site, const MakeOptions& o) const override {
    if (kind.has_own_bias()) return delta;
    return std::make_shared<BiasedDelta>(std::move(delta), bias_change(layer, site, o), site, o.label);
  }
};

}  // namespace

const Kind& diff_kind() {
  static const Diff kind;
  return kind;
}

const Addition& bias_difference() {
  static const BiasDifference addition;
  return addition;
}

const Addition& whole_bias() {
  static const WholeBias addition;
  return addition;
}

}  // namespace lora
