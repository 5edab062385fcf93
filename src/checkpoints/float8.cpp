#include "checkpoints/float8.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <set>

#include "core/check.h"
#include "core/text.h"

namespace lora {

namespace {

constexpr std::string_view kWeight = ".weight";
// The names that ComfyUI has used for the scale of a weight.
constexpr std::array<std::string_view, 2> kScales{".scale_weight", ".weight_scale"};
// The scales of inputs, and the form of a layer. Only products of float8 matrices use them.
constexpr std::array<std::string_view, 3> kLayerMarks{".scale_input", ".input_scale", ".comfy_quant"};
constexpr std::string_view kFileMark = "scaled_fp8", kForm = ".comfy_quant";

std::string_view ending(std::string_view name, std::span<const std::string_view> endings) {
  auto found = std::ranges::find_if(endings, [&](auto end) { return name.ends_with(end); });
  return found == endings.end() ? std::string_view() : *found;
}

// The text of a tensor of bytes.
std::string text_of(const Tensor& t) {
  if (t.scalar_type() != at::kByte) return {};
  const auto bytes = t.contiguous();
  return {reinterpret_cast<const char*>(bytes.const_data_ptr<uint8_t>()), size_t(bytes.numel())};
}

}  // namespace

bool is_float8(Dtype dtype) { return c10::isFloat8Type(dtype); }

std::string weight_of_scale(std::string_view name) {
  const auto end = ending(name, kScales);
  if (end.empty()) return {};
  return std::string(name.substr(0, name.size() - end.size())).append(kWeight);
}

std::string scale_of_weight(std::string_view weight, std::string_view name) {
  return std::string(weight.substr(0, weight.size() - kWeight.size())).append(ending(name, kScales));
}

bool is_float8_mark(std::string_view name) {
  return name == kFileMark || name.ends_with("." + std::string(kFileMark)) || !ending(name, kLayerMarks).empty();
}

const Tensor* scale_beside(const StateDict& tensors, const std::string& weight) {
  if (!weight.ends_with(kWeight)) return nullptr;
  for (auto end : kScales)
    if (auto* found = tensors.find(scale_of_weight(weight, end))) return found;
  return nullptr;
}

Tensor scaled(const Tensor& weight, const Tensor& scale) {
  const auto factor = scale.to(at::kFloat);
  return weight.to(at::kFloat) * (scale.numel() == 1 ? factor.reshape({}) : factor);
}

void check_scales(const StateDict& tensors, const std::string& label) {
  for (const auto& [name, t] : tensors) {
    if (name.ends_with(kForm))
      check(text_of(t).find("float8_") != std::string::npos, ErrorKind::unsupported,
            "{}: {} says that the layer is quantized as {}. Only float8 is supported", label, name, text_of(t));
    const auto weight = weight_of_scale(name);
    if (weight.empty()) continue;
    const auto* scaled = tensors.find(weight);
    const bool fits =
        t.numel() == 1 || (scaled && scaled->dim() == 2 && t.sizes() == at::IntArrayRef{scaled->size(0), 1});
    check(fits && t.is_floating_point(), ErrorKind::bad_shape,
          "{}: {} is {}; a scale must be one number, or one for each row of its weight", label, name,
          c10::str(t.scalar_type(), " ", t.sizes()));
  }
}

std::string note_of_float8(const StateDict& tensors, Dtype dtype, const std::string& label) {
  size_t count = 0;
  bool has_scales = false;
  std::set<std::string> dtypes;
  for (const auto& [name, t] : tensors) {
    has_scales |= !weight_of_scale(name).empty();
    if (!is_float8(t.scalar_type()) || is_float8_mark(name)) continue;
    ++count;
    dtypes.insert(to_string(t.scalar_type()));
  }
  if (count == 0) return {};
  return fmt::format("{}: {} in {}{}, converted to {}", label, counted(count, "tensor"),
                     join({dtypes.begin(), dtypes.end()}, " and "), has_scales ? " with scales" : "", to_string(dtype));
}

}  // namespace lora
