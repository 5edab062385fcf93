#include "kinds/dora.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <limits>

#include "core/check.h"
#include "kinds/builtin.h"
#include "kinds/kinds.h"
#include "kinds/product.h"

namespace lora {

namespace {

constexpr std::string_view kMagnitude = "lora_magnitude_vector", kDoraScale = "dora_scale";  // PEFT's and LyCORIS'

Tensor matrix(const Tensor& t, Dtype dtype) { return t.flatten(1).to(dtype); }

// What brings rows of these norms to the magnitude. A row of zeros has no direction, and stays as it is.
Tensor gain_of(const Tensor& magnitude, const Tensor& norms) {
  return at::where(norms > 0, magnitude.reshape(-1) / norms, at::ones_like(norms));
}

// t with its rows, or what else a dimension counts, multiplied.
Tensor scaled(const Tensor& t, const Tensor& gain, int64_t dim = 0) {
  std::vector<int64_t> shape(t.dim(), 1);
  shape[dim] = t.size(dim);
  return (t.to(at::kFloat) * gain.view(shape)).to(t.scalar_type());
}

}  // namespace

PeftDoraDelta::PeftDoraDelta(LoraFactors factors, const Tensor& magnitude, const Tensor& base, const std::string& label)
    : FactorDelta(std::move(factors)) {
  c10::NoGradGuard no_grad;
  auto out = factors_.B.size(0);
  check(magnitude.numel() == out, ErrorKind::bad_shape, "{}: lora_magnitude_vector has shape {}, {} outputs are wanted",
        label, c10::str(magnitude.sizes()), out);
  check(!factors_.bias.defined(), ErrorKind::unsupported,
        "{}: DoRA with a bias on lora_B is not supported; PEFT does not have it either", label);
  // A convolution's has the shape that PEFT multiplies it in.
  auto shape = factors_.A.dim() == 4 ? std::vector<int64_t>{1, out, 1, 1} : std::vector<int64_t>{out};
  magnitude_ = magnitude.reshape(shape).to(factors_.A.device(), at::kFloat);
  if (factors_.A.requires_grad()) magnitude_ = magnitude_.detach().clone().requires_grad_(true);
  auto W = matrix(base.to(factors_.A.device()), at::kFloat), A = matrix(factors_.A, at::kFloat);
  ww_ = W.pow(2).sum(1, false, at::kDouble);
  WA_ = at::mm(W, A.t()).to(at::kDouble);
  AA_ = at::mm(A, A.t()).to(at::kDouble);
}

Effect PeftDoraDelta::effect(double strength, const Tensor& base) const {
  auto s = strength * factors_.scale;
  if (is_trained()) {
    // The norm is a constant to the gradient (section 4.3 of the paper), and of what the factors are now.
    auto V = with_effect({.A = factors_.A.detach(), .B = factors_.B.detach(), .scale = s}, SiteKind::linear, base);
    auto gain = gain_of(magnitude_, V.flatten(1).norm(2, 1));
    return {.A = factors_.A, .B = scaled(factors_.B, gain), .scale = s, .gain = gain};
  }
  auto B = matrix(factors_.B, at::kDouble);
  auto squares = ww_ + 2 * s * (WA_ * B).sum(1) + s * s * (at::mm(B, AA_) * B).sum(1);
  auto gain = gain_of(magnitude_, squares.clamp_min(0).sqrt()).to(at::kFloat);
  return {.A = factors_.A, .B = scaled(factors_.B, gain), .scale = s, .gain = gain};
}

LayerTensors PeftDoraDelta::tensors() const {
  return {{std::string(kDown), factors_.A}, {std::string(kUp), factors_.B}, {std::string(kMagnitude), magnitude_}};
}

std::shared_ptr<const Delta> PeftDoraDelta::to(Device device, Dtype dtype) const {
  auto moved = std::make_shared<PeftDoraDelta>(*this);
  moved->factors_ = factors_.to(device, dtype);
  for (auto* t : {&moved->magnitude_, &moved->ww_, &moved->WA_, &moved->AA_})
    if (t->defined()) *t = t->to(device);
  return moved;
}

LycorisDoraDelta::LycorisDoraDelta(std::shared_ptr<const Delta> inner, const Tensor& dora_scale, const Tensor& base,
                                   const std::string& label)
    : WrappedDelta(std::move(inner)), dora_scale_(dora_scale) {
  c10::NoGradGuard no_grad;
  auto out = base.size(0), in = base.size(1);
  by_output_ = dora_scale.size(0) == out && dora_scale.numel() == out;
  bool by_input = dora_scale.dim() >= 2 && dora_scale.size(1) == in && dora_scale.numel() == in;
  check(by_output_ || by_input, ErrorKind::bad_shape,
        "{}: dora_scale has shape {}; [{}, 1, …] or [1, {}, …] is wanted for a layer {} → {}", label,
        c10::str(dora_scale.sizes()), out, in, in, out);

  auto change = inner_->effect(1, base);
  check(!change.gain.defined() && !change.input_gain.defined() && !change.bias.defined(), ErrorKind::unsupported,
        "{}: dora_scale beside {} with a bias or factors of its own", label, inner_->algorithm());
  auto W = with_effect(change, SiteKind::linear, base.to(inner_->device()));
  auto norm = (by_output_ ? W.flatten(1) : W.transpose(0, 1).flatten(1)).norm(2, 1);
  gain_ = dora_scale.reshape(-1).to(W.device(), at::kFloat) / (norm + std::numeric_limits<float>::epsilon());
  if (!change.A.defined()) return;
  A_ = by_output_ ? change.A : scaled(change.A, gain_, 1);
  B_ = by_output_ ? scaled(change.B, gain_) : change.B;
}

Effect LycorisDoraDelta::effect(double strength, const Tensor& base) const {
  auto effect = inner_->effect(strength, base);
  if (A_.defined()) effect.A = A_, effect.B = B_;
  if (effect.weight.defined()) effect.weight = scaled(effect.weight, gain_, by_output_ ? 0 : 1);
  (by_output_ ? effect.gain : effect.input_gain) = strength * (gain_ - 1) + 1;
  return effect;
}

LayerTensors LycorisDoraDelta::tensors() const {
  auto tensors = inner_->tensors();
  tensors.emplace(kDoraScale, dora_scale_);
  return tensors;
}

std::shared_ptr<const Delta> LycorisDoraDelta::to(Device device, Dtype dtype) const {
  auto moved = std::make_shared<LycorisDoraDelta>(*this);
  moved->inner_ = inner_->to(device, dtype);
  moved->gain_ = gain_.to(device);
  if (A_.defined()) moved->A_ = A_.to(device, dtype), moved->B_ = B_.to(device, dtype);
  return moved;
}

// ---- What stands beside a kind --------------------------------------------------------------------------------------

namespace {

// clang-format off
constexpr TensorName kPeftNames[] = {
    {kMagnitude, "", ".lora_magnitude_vector", true, "use_dora"},
    {kMagnitude, "", ".magnitude"},  // ai-toolkit
};
// clang-format on
constexpr TensorName kLycorisNames[] = {{kDoraScale, ".dora_scale", ""}};

bool is_by_output(const Tensor& magnitude) { return magnitude.dim() > 0 && magnitude.size(0) == magnitude.numel(); }

// Tensors of a layer with another in the place of one.
void replace(LayerTensors& tensors, std::string_view old, std::string_view now, const Tensor& tensor) {
  tensors.erase(std::string(old));
  tensors[std::string(now)] = tensor;
}

class Dora : public Addition {
 public:
  std::string full_name(const Kind& kind, const LayerTensors& t) const override { return kind.name_with_dora(t); }
  bool depends_on_base() const override { return true; }
  bool zero_is_none(std::string_view) const override { return false; }
};

class PeftMagnitude final : public Dora {
 public:
  std::span<const TensorName> names() const override { return kPeftNames; }
  std::string_view spoken(std::string_view) const override { return "DoRA"; }
  int row_dim(const LayerTensors& t, std::string_view suffix, const std::string&) const override {
    auto magnitude = get(t, suffix);
    return magnitude.dim() > 1 && magnitude.size(0) == 1 ? 1 : 0;
  }
  Factors factors(Factors of_kind, const LayerTensors&) const override {
    return of_kind == Factors::exactly ? of_kind : Factors::with_base_only;
  }
  void to_kohya(LoraLayer& layer) const override {
    auto magnitude = get(layer.tensors, kMagnitude);
    if (!magnitude.defined()) return;
    std::vector<int64_t> column{magnitude.numel(), 1};
    if (!size_of(layer.tensors).kernel.empty()) column.insert(column.end(), {1, 1});
    replace(layer.tensors, kMagnitude, kDoraScale, magnitude.reshape(column));
  }
  std::shared_ptr<const Delta> around(std::shared_ptr<const Delta> delta, const Kind& kind, const LoraLayer& layer,
                                      const Site& site, const MakeOptions& o) const override {
    auto* factors = dynamic_cast<const LoraDelta*>(delta.get());
    check(factors, ErrorKind::unsupported, "{}: {} beside {}; it belongs to LoRA", o.label, kMagnitude, kind.name());
    check_matrix(site, "DoRA", o.label);
    return std::make_shared<PeftDoraDelta>(factors->factors(), get(layer.tensors, kMagnitude), o.base(site), o.label);
  }
};

class DoraScale final : public Dora {
 public:
  std::span<const TensorName> names() const override { return kLycorisNames; }
  std::string_view spoken(std::string_view) const override {
    return "DoRA with a magnitude for each input, or on another kind than LoRA";
  }
  int row_dim(const LayerTensors& t, std::string_view suffix, const std::string& label) const override {
    check(
        is_by_output(get(t, suffix)), ErrorKind::unsupported,
        "{}: dora_scale has a magnitude for each input, of q, k and v together; it cannot be given to them one by one",
        label);
    return 0;
  }
  Factors factors(Factors of_kind, const LayerTensors& t) const override {
    return of_kind == Factors::exactly && is_by_output(get(t, kDoraScale)) ? of_kind : Factors::with_base_only;
  }
  void to_peft(LoraLayer& layer) const override {
    auto magnitude = get(layer.tensors, kDoraScale);
    if (!magnitude.defined() || factors_of(layer.tensors) != Factors::exactly) return;
    auto out = magnitude.numel();
    bool conv = !size_of(layer.tensors).kernel.empty();
    replace(layer.tensors, kDoraScale, kMagnitude,
            magnitude.reshape(conv ? std::vector<int64_t>{1, out, 1, 1} : std::vector{out}));
  }
  std::shared_ptr<const Delta> around(std::shared_ptr<const Delta> delta, const Kind&, const LoraLayer& layer,
                                      const Site& site, const MakeOptions& o) const override {
    check_matrix(site, "DoRA", o.label);
    return std::make_shared<LycorisDoraDelta>(std::move(delta), get(layer.tensors, kDoraScale), o.base(site), o.label);
  }
};

}  // namespace

const Addition& peft_magnitude() {
  static const PeftMagnitude addition;
  return addition;
}

const Addition& dora_scale() {
  static const DoraScale addition;
  return addition;
}

}  // namespace lora
