#include "files/convert_plan.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "core/check.h"
#include "core/text.h"
#include "kinds/builtin.h"
#include "kinds/lora.h"

namespace lora {

namespace {

void refuse(const std::vector<LoraLayer>& layers, const ConvertOptions& options, const std::string& source) {
  std::map<std::string, std::vector<std::string>> kinds, based, factorless;
  for (const auto& layer : layers) {
    auto factors = factors_of(layer.tensors);
    if (factors == Factors::nearly && !options.approximate) kinds[layer.kind].push_back(layer.name());
    if (factors == Factors::with_base_only) based[layer.kind].push_back(layer.name());
    if (factors == Factors::never) factorless[layer.kind].push_back(layer.name());
  }
  auto listed = [](const auto& by_kind) {
    std::vector<std::string> all;
    for (const auto& [kind, names] : by_kind)
      all.push_back(fmt::format("{} ({}: {})", kind, counted(names.size(), "layer"), listing(names, 3)));
    return join(all, ", ");
  };
  check(based.empty(), ErrorKind::unsupported,
        "{}: the format {} cannot store {}. These kinds depend on the base weights, so they cannot be approximated "
        "without the base model; write kohya or comfy, which can store them, or fuse the file into a model",
        source, options.to, listed(based));
  check(factorless.empty(), ErrorKind::unsupported,
        "{}: the format {} cannot store {}. They are not matrices, so factors cannot stand in for them; write kohya or "
        "comfy, which can store them",
        source, options.to, listed(factorless));
  check(kinds.empty(), ErrorKind::unsupported,
        "{}: the format {} cannot store {}; write kohya or comfy, which can, or approximate them by factors: "
        "--approximate --rank N",
        source, options.to, listed(kinds));
}

// Stands for a tensor that is made later: of its sizes, without its memory.
Tensor placeholder(at::IntArrayRef shape, Dtype dtype) { return at::zeros({1}, dtype).expand(shape); }

Dtype dtype_of(const LoraLayer& layer) {
  for (const auto& [suffix, tensor] : layer.tensors)
    if (tensor.is_floating_point()) return tensor.scalar_type();
  return at::kFloat;
}

// The kernel of the convolution that a layer is for, where the base model or the layer's own tensors tell it.
std::vector<int64_t> kernel_of(const LoraLayer& layer, const std::map<std::string, PublishedComponent>& published) {
  if (auto model = published.find(layer.component); model != published.end())
    if (auto known = model->second.layers.find(layer.path); known != model->second.layers.end())
      return {known->second.shape.begin() + std::min<ptrdiff_t>(2, ptrdiff_t(known->second.shape.size())),
              known->second.shape.end()};
  return size_of(layer.tensors).kernel;
}

double relative_error(const Tensor& wanted, const FactorPair& got) {
  auto whole = wanted.norm().item<double>();
  auto missing = wanted.addmm(got.B, got.A, 1, -1).norm().item<double>();
  return whole > 0 ? missing / whole : 0;
}

}  // namespace

Planner::Planner(const LoraFile& file, const ConvertOptions& options)
    : base_model_(file.base_model), rank_(options.approximate.value_or(0)) {
  refuse(file.layers, options, file.source);
}

Plan Planner::plan(const LoraLayer& layer) {
  switch (factors_of(layer.tensors)) {
    case Factors::with_core_folded: return without_core(layer);
    case Factors::nearly: return approximated(layer);
    default: return {layer, nullptr};
  }
}

Plan Planner::without_core(const LoraLayer& layer) {
  ++folded_;
  auto* kind = kind_of(layer.tensors);
  return {kind->folded_sizes(layer), [kind, layer] {
            auto made = kind->folded(layer);
            return FactorPair{get(made.tensors, kDown), get(made.tensors, kUp)};
          }};
}

Plan Planner::approximated(const LoraLayer& layer) {
  if (!published_.contains(layer.component))
    for (auto& model : published_components(base_model_, layer.component)) {
      if (!model.layers.contains(layer.path)) continue;
      published_[layer.component] = std::move(model);
      break;
    }
  auto kernel = kernel_of(layer, published_);
  auto size = size_of(layer.tensors);
  auto rank = std::min({rank_, size.rows, size.columns});
  std::vector<int64_t> A{rank, size.columns}, B{size.rows, rank};
  if (kernel.size() == 2) {
    A = {rank, size.columns / (kernel[0] * kernel[1]), kernel[0], kernel[1]};
    B = {size.rows, rank, 1, 1};
  }
  auto dtype = dtype_of(layer);
  LoraLayer stand_in{.component = layer.component, .path = layer.path};
  stand_in.tensors = {{std::string(kDown), placeholder(A, dtype)}, {std::string(kUp), placeholder(B, dtype)}};
  for (const auto& [suffix, tensor] : layer.tensors)
    if (family_of(suffix) == &bias_difference()) stand_in.tensors.emplace(suffix, tensor);
  return {stand_in, [this, layer, rank, A, B] {
            auto wanted = dense(change_of(layer));
            auto factors = truncated(wanted, rank);
            errors_[layer.name()] = relative_error(wanted, factors);
            return FactorPair{factors.A.reshape(A), factors.B.reshape(B)};
          }};
}

}  // namespace lora
