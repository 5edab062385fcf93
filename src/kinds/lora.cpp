#include "kinds/lora.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "core/check.h"
#include "kinds/builtin.h"
#include "kinds/diff.h"
#include "kinds/kinds.h"
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

LoraFactors LoraFactors::fit(const Site& site, const Tensor& given_A, const Tensor& given_B, const Tensor& bias,
                             const std::string& label) {
  auto A = padded_to(site, given_A), B = given_B;
  auto wanted = site.weight.sizes();  // linear [out, in]; conv [out, in/groups, kh, kw]; embedding [num, dim]
  check(site.kind != SiteKind::norm, ErrorKind::unsupported, "{}: low-rank factors on a norm", label);
  // Their product would join the groups: no weight of the layer's shape could say it.
  check(site.geometry.groups == 1, ErrorKind::unsupported,
        "{}: low-rank factors {} and {} that join the {} groups of a convolution; no weight of its shape does that",
        label, c10::str(A.sizes()), c10::str(B.sizes()), site.geometry.groups);
  check(A.dim() >= 2 && B.dim() >= 2, ErrorKind::bad_shape, "{}: factors of shapes {} and {} are no matrices", label,
        c10::str(A.sizes()), c10::str(B.sizes()));
  check(A.size(0) == B.size(1), ErrorKind::bad_shape,
        "{}: the down matrix has rank {} (shape {}), the up matrix {} (shape {}); the pair does not belong together{}",
        label, A.size(0), c10::str(A.sizes()), B.size(1), c10::str(B.sizes()),
        A.size(-1) == B.size(0) ? ", or both are transposed" : "");
  check(A.size(0) > 0, ErrorKind::bad_shape, "{}: factors of rank 0", label);

  int64_t in = A.numel() / A.size(0), out = B.numel() / B.size(1);
  int64_t site_in = site.weight.numel() / wanted[0], site_out = wanted[0];
  if (site.kind == SiteKind::embedding) {
    site_in = wanted[0], site_out = wanted[1];
    // Factors that make the weight as it stands, [words, width], as ComfyUI has them.
    if (in != site_in && in == site_out && out == site_in) {
      A = std::exchange(B, A.flatten(1).t()).flatten(1).t();
      std::swap(in, out);
    }
  }
  check(in == site_in && out == site_out, ErrorKind::bad_shape,
        "{}: the adapter is for a layer {}, the model's is {}{}", label,
        size_text(out, in, A.sizes().slice(std::min<size_t>(2, A.sizes().size()))),
        site.kind == SiteKind::embedding ? size_text(site_out, site_in, {}) : size_text(site.weight),
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

LayerTensors LoraDelta::tensors() const {
  LayerTensors tensors{{std::string(kDown), factors_.A}, {std::string(kUp), factors_.B}};
  if (factors_.bias.defined()) tensors.emplace(kUpBias, factors_.bias);
  return tensors;
}

std::shared_ptr<const Delta> LoraDelta::to(Device device, Dtype dtype) const {
  return std::make_shared<LoraDelta>(factors_.to(device, dtype));
}

// ---- Embeddings -----------------------------------------------------------------------------------------------------

namespace {

// Exchanges two entries. Either may be missing.
template <class Entries>
void exchange(Entries& entries, std::string_view one, std::string_view other) {
  auto a = entries.extract(std::string(one)), b = entries.extract(std::string(other));
  for (auto [entry, name] : {std::pair(&a, other), std::pair(&b, one)}) {
    if (entry->empty()) continue;
    entry->key() = name;
    entries.insert(std::move(*entry));
  }
}

}  // namespace

void turn_embedding(LoraLayer& layer) {
  auto A = get(layer.tensors, kDown), B = get(layer.tensors, kUp);
  auto can_turn = [](const Tensor& t) { return !t.defined() || t.dim() == 2; };
  if (!is_embedding_path(layer.path) || !can_turn(A) || !can_turn(B)) return;
  if (A.defined()) layer.tensors[std::string(kDown)] = A.t();
  if (B.defined()) layer.tensors[std::string(kUp)] = B.t();
  exchange(layer.tensors, kDown, kUp);
  exchange(layer.keys, kDown, kUp);
}

// ---- The kind -------------------------------------------------------------------------------------------------------

namespace {

constexpr std::string_view kCore = "lora_mid.weight";

// clang-format off
constexpr TensorName kNames[] = {
    {kDown, ".lora_down.weight", ".lora_A", true},
    {kDown, ".lora_A.weight", ".lora_embedding_A"},
    {kDown, ".lora.down.weight", ""},
    {kDown, ".lora_linear_layer.down.weight", ""},
    {kUp, ".lora_up.weight", ".lora_B", true},
    {kUp, ".lora_B.weight", ".lora_embedding_B"},
    {kUp, ".lora.up.weight", ""},
    {kUp, ".lora_linear_layer.up.weight", ""},
    {kCore, ".lora_mid.weight", ""},
    {kUpBias, "", ".lora_B.bias", true, "lora_bias"},
    {kUpBias, ".lora_up.bias", ""},
    {kUpBias, ".lora.up.bias", ""},
    {kUpBias, ".lora_linear_layer.up.bias", ""},
};
// clang-format on

class Lora final : public Kind {
 public:
  std::span<const TensorName> names() const override { return kNames; }
  std::string_view name() const override { return "LoRA"; }
  std::string full_name(const LayerTensors& t) const override {
    if (t.contains(kCore)) return "LoRA with a Tucker core";
    return t.contains(kUpBias) ? "LoRA with biases" : "LoRA";
  }
  std::string name_with_dora(const LayerTensors& t) const override {
    return t.contains(kCore) ? full_name(t) + " with DoRA" : "DoRA";
  }
  std::string_view spoken(std::string_view suffix) const override {
    return suffix == kCore ? "LoCon with a Tucker core" : name();
  }

  std::string missing(const LayerTensors& t) const override {
    if (!t.contains(kUp)) return t.contains(kDown) ? "no lora_B/up" : "no lora_A and lora_B";
    return t.contains(kDown) ? "" : "no lora_A/down";
  }

  int64_t rank(const LayerTensors& t) const override { return size_of(t, kDown, 0); }
  WeightSize size(const LayerTensors& t) const override {
    WeightSize size{.rows = size_of(t, kUp, 0), .columns = columns_of(t, kDown), .kernel = {}};
    auto spatial = get(t, t.contains(kCore) ? kCore : kDown);
    if (spatial.defined() && spatial.dim() == 4) size.kernel = {spatial.size(2), spatial.size(3)};
    if (t.contains(kCore) && !size.kernel.empty()) size.columns *= size.kernel[0] * size.kernel[1];
    return size;
  }
  int row_dim(const LayerTensors&, std::string_view suffix, const std::string&) const override {
    return suffix == kUp || suffix == kUpBias ? 0 : -1;
  }

  std::shared_ptr<const Delta> make(const LoraLayer& layer, const Site& site, const MakeOptions& o) const override;
  Effect change(const LoraLayer& layer) const override;

  Factors factors(const LayerTensors& t) const override {
    return t.contains(kCore) ? Factors::with_core_folded : Factors::exactly;
  }
  LoraLayer folded(const LoraLayer& layer) const override {
    auto A = get(layer.tensors, kDown), core = get(layer.tensors, kCore);
    return core.defined() ? without_core(layer, with_tucker_core(A, core, layer.name())) : layer;
  }
  LoraLayer folded_sizes(const LoraLayer& layer) const override {
    auto A = get(layer.tensors, kDown), core = get(layer.tensors, kCore);
    if (!core.defined()) return layer;
    return without_core(layer,
                        at::zeros({1}, A.options()).expand({core.size(0), A.size(1), core.size(2), core.size(3)}));
  }

  std::span<const std::string_view> multiplied() const override {
    static constexpr std::string_view kFactors[] = {kDown, kCore, kUp};
    return kFactors;
  }

  std::optional<LoraLayer> own_block(const LoraLayer& part, int index, int count) const override;
  LoraLayer join(const std::vector<SlicedLayer>& parts, bool same_inputs, const std::string& label) const override;

  // kohya's family has the up factor's bias as a difference of the layer's own, strengths as alphas, and an embedding's
  // factors the other way round.
  void to_kohya(LoraLayer& layer) const override {
    auto r = rank(layer.tensors);
    turn_embedding(layer);
    auto scale = strength_of(layer, r).scale;
    if (auto bias = get(layer.tensors, kUpBias); bias.defined()) {
      layer.tensors.erase(std::string(kUpBias));
      layer.tensors[std::string(kBiasDifference)] = (bias.to(at::kFloat) * scale).to(bias.scalar_type());
    }
    if (layer.scale || !layer.alpha) layer.alpha = scale * double(r);
    layer.scale.reset();
  }
  void to_peft(LoraLayer& layer) const override {
    auto bias = get(layer.tensors, kBiasDifference);
    if (!bias.defined()) return;
    auto scale = strength_of(layer, rank(layer.tensors)).scale;
    check(scale != 0, ErrorKind::unsupported,
          "its factors have strength 0, so they cannot carry the difference of its bias");
    layer.tensors.erase(std::string(kBiasDifference));
    layer.tensors[std::string(kUpBias)] = (bias.to(at::kFloat) / scale).to(bias.scalar_type());
  }

 private:
  static LoraLayer without_core(LoraLayer layer, const Tensor& down) {
    auto& B = layer.tensors.find(kUp)->second;
    layer.tensors[std::string(kDown)] = down;
    B = B.reshape({B.size(0), B.size(1), 1, 1});
    layer.tensors.erase(std::string(kCore));
    return layer;
  }
};

// A convolution in groups has no factors that walk over its input as it does: its change is made whole.
std::shared_ptr<const Delta> grouped(const Tensor& A, const Tensor& B, const Site& site, Strength strength,
                                     const std::string& label) {
  ProductDelta::Form form{.algorithm = "lora",
                          .tensors = {{std::string(kDown), A}, {std::string(kUp), B}},
                          .rank = A.size(0),
                          .strength = strength,
                          .dense = [](const LayerTensors& t, const Tensor&) {
                            return at::mm(float_matrix(get(t, kUp)), float_matrix(get(t, kDown)));
                          }};
  return std::make_shared<ProductDelta>(std::move(form), site, label);
}

std::shared_ptr<const Delta> Lora::make(const LoraLayer& layer, const Site& site, const MakeOptions& o) const {
  auto A = get(layer.tensors, kDown), B = get(layer.tensors, kUp), bias = get(layer.tensors, kUpBias);
  auto strength = strength_of(layer, A.size(0));
  if (auto core = get(layer.tensors, kCore); core.defined()) A = with_tucker_core(A, core, o.label);
  bool full_size =
      A.dim() >= 2 && A.numel() / std::max<int64_t>(A.size(0), 1) * site.weight.size(0) == site.weight.numel();
  if (site.geometry.groups > 1 && full_size && !bias.defined()) return grouped(A, B, site, strength, o.label);
  auto factors = LoraFactors::fit(site, A, B, bias, o.label);
  factors.alpha = strength.alpha;
  factors.scale = strength.scale;
  return std::make_shared<LoraDelta>(factors.to(site.weight.device(), site.weight.scalar_type()));
}

Effect Lora::change(const LoraLayer& layer) const {
  auto A = get(layer.tensors, kDown), B = get(layer.tensors, kUp), core = get(layer.tensors, kCore);
  check(A.dim() >= 2 && B.dim() >= 2 && B.flatten(1).size(1) == A.size(0), ErrorKind::bad_shape,
        "{}: factors {} and {} do not go together", layer.name(), c10::str(A.sizes()), c10::str(B.sizes()));
  auto scale = strength_of(layer, std::max<int64_t>(A.size(0), 1)).scale;
  if (core.defined()) A = with_tucker_core(A, core, layer.name());
  return {.A = float_matrix(A), .B = float_matrix(B), .scale = scale};
}

std::optional<LoraLayer> Lora::own_block(const LoraLayer& part, int index, int count) const {
  auto A = get(part.tensors, kDown), B = get(part.tensors, kUp);
  if (!A.defined() || !B.defined() || A.size(0) % count != 0 || B.size(1) != A.size(0)) return std::nullopt;
  auto r = A.size(0) / count, from = r * index, to = from + r;
  // Of sizes alone nothing speaks against it.
  auto empty = [](const Tensor& t) { return t.is_meta() || at::count_nonzero(t).item<int64_t>() == 0; };
  if (!empty(B.slice(1, 0, from)) || !empty(B.slice(1, to))) return std::nullopt;
  auto block = part;
  block.tensors[std::string(kDown)] = A.slice(0, from, to);
  block.tensors[std::string(kUp)] = B.slice(1, from, to);
  return block;
}

// The parts without their factors: what is there for each row, such as a magnitude, goes together as it is.
LoraLayer join_others(std::vector<SlicedLayer> parts, const std::string& label) {
  for (auto& part : parts)
    std::erase_if(part.layer.tensors, [](auto& entry) { return entry.first == kDown || entry.first == kUp; });
  return join_rows(parts, /*same_inputs=*/false, label);
}

// Different factors stand in blocks: [A1; A2; …] and diag(B1, B2, …), each at its own strength.
LoraLayer Lora::join(const std::vector<SlicedLayer>& parts, bool same_inputs, const std::string& label) const {
  if (same_inputs) return Kind::join(parts, same_inputs, label);
  std::vector<Tensor> downs;
  std::vector<double> scales;
  int64_t rank = 0;
  for (const auto& [rows, part] : parts) {
    downs.push_back(get(part.tensors, kDown));
    scales.push_back(strength_of(part, downs.back().size(0)).scale);
    rank += downs.back().size(0);
  }
  bool one_scale = std::all_of(scales.begin(), scales.end(), [&](double s) { return s == scales.front(); });
  std::vector<std::pair<RowSlice, Tensor>> ups;
  int64_t column = 0;
  for (size_t i = 0; i < parts.size(); ++i) {
    auto B = get(parts[i].layer.tensors, kUp);
    if (!one_scale) B = (B.to(at::kFloat) * scales[i]).to(B.scalar_type());
    auto flat = B.flatten(1);
    auto wide = at::zeros({flat.size(0), rank}, flat.options());
    wide.slice(1, column, column + flat.size(1)).copy_(flat);
    column += flat.size(1);
    ups.emplace_back(parts[i].rows, wide);
  }
  auto joined = join_others(parts, label);
  joined.tensors[std::string(kDown)] = at::cat(downs, 0);
  joined.tensors[std::string(kUp)] = joined_rows(ups, 0);
  joined.alpha = (one_scale ? scales.front() : 1.0) * double(rank);
  joined.scale.reset();
  return joined;
}

}  // namespace

const Kind& lora_kind() {
  static const Lora kind;
  return kind;
}

}  // namespace lora
