// IA3 (Liu et al. 2022, arXiv:2205.05638): rows or columns of W times a learned factor. LyCORIS stores the deviation
// from 1 (`weight`, `on_input`), PEFT the factor (`ia3_l`), which in the rows multiplies the bias too.
#include <ATen/ATen.h>

#include "core/check.h"
#include "kinds/builtin.h"

namespace lora {

namespace {

constexpr std::string_view kDeviation = "weight", kOnInput = "on_input", kFactor = "ia3_l";

// clang-format off
constexpr TensorName kNames[] = {
    {kDeviation, ".weight", "", false, "", kOnInput, "a whole weight, which no adapter has"},
    {.ours = kOnInput, .kohya = ".on_input", .peft = "", .is_factor = false},
    {kFactor, "", ".ia3_l"},
};
// clang-format on

bool acts_on_input(const LayerTensors& t) {
  auto on_input = get(t, kOnInput);
  return on_input.defined() && on_input.numel() == 1 && number(on_input) != 0;
}

// Whether only sizes are there, so that nothing tells which side is meant.
bool has_unread_side(const LayerTensors& t) {
  auto on_input = get(t, kOnInput);
  return on_input.defined() && on_input.is_meta();
}

// PEFT's factors of a linear layer tell by their shape; a convolution's are [1, n, 1, 1] either way.
bool is_on_input(const Site& site, const Tensor& factor, bool feedforward) {
  if (factor.dim() == 2) return factor.size(0) == 1;
  return feedforward || factor.numel() != site.weight.size(0);
}

class Ia3Delta : public Delta {
 public:
  // tensors: weight and on_input, or ia3_l: [out, 1] or [1, in], a convolution's [1, out or in, 1, 1], of the inputs
  // where `feedforward`. base_bias: the site's, undefined where it has none. Throws Error{bad_shape}.
  Ia3Delta(const Site& site, const LayerTensors& tensors, const Tensor& base_bias, bool feedforward,
           const std::string& label);

  const char* algorithm() const override { return "ia3"; }
  int64_t rank() const override { return 0; }
  double alpha() const override { return 0; }
  double scale() const override { return 1; }
  Device device() const override { return deviation_.device(); }
  bool has_bias() const override { return bias_.defined(); }
  Effect effect(double strength, const Tensor& base) const override;
  LayerTensors tensors() const override;
  std::shared_ptr<const Delta> to(Device device, Dtype dtype) const override;

 private:
  LayerTensors tensors_;
  bool on_input_ = false;
  Tensor deviation_;  // [in] or [out], float32
  Tensor bias_;       // what a strength of 1 adds to the bias, float32; undefined for nothing
};

Ia3Delta::Ia3Delta(const Site& site, const LayerTensors& tensors, const Tensor& base_bias, bool feedforward,
                   const std::string& label)
    : tensors_(tensors) {
  check(site.kind == SiteKind::linear || site.kind == SiteKind::conv2d, ErrorKind::unsupported,
        "{}: IA3 on a layer that is neither linear nor a convolution", label);
  bool factor = tensors.contains(kFactor);
  auto given = get(tensors, factor ? kFactor : kDeviation);
  on_input_ = factor ? is_on_input(site, given, feedforward) : acts_on_input(tensors);
  auto wanted = site.weight.size(on_input_ ? 1 : 0);
  check(given.numel() == wanted, ErrorKind::bad_shape, "{}: IA3 has {} factors for the {}s of a layer {}", label,
        given.numel(), on_input_ ? "input" : "output", size_text(site.weight));
  deviation_ = given.reshape(-1).to(site.weight.device(), at::kFloat);
  if (factor) deviation_ = deviation_ - 1;
  if (factor && !on_input_ && base_bias.defined()) bias_ = base_bias.to(deviation_) * deviation_;
}

Effect Ia3Delta::effect(double strength, const Tensor&) const {
  Effect effect;
  (on_input_ ? effect.input_gain : effect.gain) = deviation_ * strength + 1;
  if (bias_.defined()) effect.bias = bias_ * strength;
  return effect;
}

LayerTensors Ia3Delta::tensors() const {
  auto tensors = tensors_;
  // As a linear layer's: a convolution's shape leaves it to the config which side is meant.
  if (auto factor = tensors.find(kFactor); factor != tensors.end())
    factor->second = factor->second.reshape(on_input_ ? std::vector<int64_t>{1, -1} : std::vector<int64_t>{-1, 1});
  return tensors;
}

std::shared_ptr<const Delta> Ia3Delta::to(Device device, Dtype) const {
  auto moved = std::make_shared<Ia3Delta>(*this);
  moved->deviation_ = deviation_.to(device);
  if (bias_.defined()) moved->bias_ = bias_.to(device);
  return moved;
}

class Ia3 final : public Kind {
 public:
  std::span<const TensorName> names() const override { return kNames; }
  std::string_view name() const override { return "IA3"; }
  std::string missing(const LayerTensors& t) const override {
    return t.contains(kOnInput) && !t.contains(kDeviation) ? "no weight beside on_input" : "";
  }
  WeightSize size(const LayerTensors& t) const override {
    auto deviation = get(t, kDeviation);
    if (!deviation.defined() || has_unread_side(t)) return {};
    return acts_on_input(t) ? WeightSize{0, deviation.numel(), {}} : WeightSize{deviation.numel(), 0, {}};
  }
  bool depends_on_base() const override { return true; }
  bool has_strength() const override { return false; }
  int row_dim(const LayerTensors& t, std::string_view suffix, const std::string&) const override {
    if (suffix == kOnInput || (suffix == kDeviation && (has_unread_side(t) || acts_on_input(t)))) return -1;
    auto tensor = get(t, suffix);
    bool is_row = tensor.dim() > 1 && tensor.size(0) == 1;
    return !is_row ? 0 : suffix == kDeviation ? 1 : -1;
  }
  void to_kohya(LoraLayer& layer) const override {
    auto factor = get(layer.tensors, kFactor);
    if (!factor.defined()) return;
    check(factor.dim() == 2, ErrorKind::unsupported, "PEFT's IA3 on a convolution, which does not say of what");
    layer.tensors.erase(std::string(kFactor));
    layer.settings.erase("feedforward");  // the shape says it
    layer.tensors[std::string(kOnInput)] = at::scalar_tensor(factor.size(0) == 1, at::kBool);
    layer.tensors[std::string(kDeviation)] = factor.flatten() - 1;
  }

  std::shared_ptr<const Delta> make(const LoraLayer& layer, const Site& site, const MakeOptions& o) const override {
    auto on_input = get(layer.tensors, kOnInput);
    check(!on_input.defined() || on_input.numel() == 1, ErrorKind::bad_shape,
          "{}: on_input has shape {}; one number is wanted", o.label,
          on_input.defined() ? c10::str(on_input.sizes()) : "");
    auto feedforward = layer.settings.find("feedforward");
    return std::make_shared<Ia3Delta>(site, layer.tensors, o.base_bias(site),
                                      feedforward != layer.settings.end() && feedforward->second != 0, o.label);
  }
};

}  // namespace

const Kind& ia3_kind() {
  static const Ia3 kind;
  return kind;
}

}  // namespace lora
