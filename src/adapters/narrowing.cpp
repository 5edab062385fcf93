#include "adapters/narrowing.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "kinds/lora.h"

namespace lora {

namespace {

// float32 and bfloat16 have the same range. Only float16 has a smaller one.
constexpr float kBecomesZero = 0x1p-25f, kBecomesInfinite = 65520;
// Below this largest number, half of the digits of float16 are lost in most numbers.
constexpr float kSmall = 0x1p-12f;

bool narrows(Dtype from, Dtype to) { return to == at::kHalf && from != at::kHalf && c10::isFloatingType(from); }

}  // namespace

Narrowing narrowing(const Tensor& tensor, Dtype to) {
  Narrowing result;
  if (!narrows(tensor.scalar_type(), to) || tensor.is_meta()) return result;
  auto floats = tensor.detach().to(at::kCPU, at::kFloat).contiguous();
  const auto* numbers = floats.const_data_ptr<float>();
  constexpr int64_t kBlock = 1 << 14;  // counters of 32 bits let the compiler vectorise the loop
  for (int64_t begin = 0; begin < floats.numel(); begin += kBlock) {
    int32_t nonzero = 0, flushed = 0, overflowed = 0;
    float largest = result.largest;
    for (auto i = begin, end = std::min(begin + kBlock, floats.numel()); i < end; ++i) {
      float magnitude = std::fabs(numbers[i]);
      nonzero += magnitude > 0;
      flushed += (magnitude > 0) & (magnitude <= kBecomesZero);
      overflowed += magnitude >= kBecomesInfinite;
      largest = magnitude > largest ? magnitude : largest;
    }
    result.nonzero += nonzero, result.flushed += flushed, result.overflowed += overflowed;
    result.largest = largest;
  }
  return result;
}

std::optional<LoraLayer> shifted_into_range(const LoraLayer& layer, Dtype dtype) {
  auto down = layer.tensors.find(kDown), up = layer.tensors.find(kUp);
  if (dtype != at::kHalf || down == layer.tensors.end() || up == layer.tensors.end()) return std::nullopt;
  auto A = narrowing(down->second, dtype), B = narrowing(up->second, dtype);
  auto fits = [](const Narrowing& n) { return n.nonzero == 0 || (n.is_negligible() && n.largest >= kSmall); };
  if (A.nonzero == 0 || B.nonzero == 0 || (fits(A) && fits(B))) return std::nullopt;
  // Both factors get the same largest number. A's is at most 1, because the outputs of A are in float16 too.
  auto wanted = std::min(0.0, (std::log2(double(A.largest)) + std::log2(double(B.largest))) / 2);
  auto shift = int(std::lround(wanted - std::log2(double(A.largest))));
  if (shift == 0) return std::nullopt;
  auto shifted = layer;
  shifted.tensors.find(kDown)->second = at::ldexp(down->second.to(at::kFloat), at::tensor(shift));
  shifted.tensors.find(kUp)->second = at::ldexp(up->second.to(at::kFloat), at::tensor(-shift));
  return shifted;
}

NarrowingLoss narrowing_loss(const LoraLayer& layer, const Delta& delta, Dtype dtype) {
  NarrowingLoss loss;
  if (dtype != at::kHalf) return loss;
  const auto stored = delta.tensors();
  for (const auto& [suffix, tensor] : layer.tensors) {
    auto it = stored.find(suffix);
    if (it == stored.end()) continue;
    auto lost = narrowing(tensor, it->second.scalar_type());
    if (lost.overflowed > 0)
      loss.fatal = fmt::format("{}: {} numbers of {} are too large for {}", layer.name(), lost.overflowed, suffix,
                               to_string(dtype));
    else if (lost.nonzero > 0 && lost.flushed == lost.nonzero)
      loss.fatal = fmt::format("{}: all numbers of {} are so small that {} makes them 0", layer.name(), suffix,
                               to_string(dtype));
    if (!lost.is_negligible()) loss.flushed += lost.flushed, loss.nonzero += lost.nonzero;
  }
  return loss;
}

}  // namespace lora
