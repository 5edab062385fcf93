#include "adapters/finite.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cstdint>

#include "kinds/kinds.h"

namespace lora {

namespace {

// NaN and infinity are the numbers whose exponent bits are all 1. The lowest of these bits, added to them, then carries
// into the sign's place. The compiler vectorises blocks of one length. They are short, so that the check ends soon
// after the first bad number.
template <class Bits>
bool exponents_are_finite(const void* data, int64_t n, Bits exponent) {
  constexpr int64_t kBlock = 1024;
  const Bits lowest = exponent & -exponent, sign = ~(Bits(~Bits(0)) >> 1);
  const auto* bits = static_cast<const Bits*>(data);
  const auto* end = bits + n;
  Bits bad = 0;
  for (; end - bits >= kBlock && !(bad & sign); bits += kBlock)
    for (int64_t i = 0; i < kBlock; ++i) bad |= static_cast<Bits>((bits[i] & exponent) + lowest);
  for (; bits < end; ++bits) bad |= static_cast<Bits>((*bits & exponent) + lowest);
  return !(bad & sign);
}

}  // namespace

bool all_finite(const Tensor& t) {
  if (!t.is_floating_point() || t.is_meta()) return true;
  if (!t.is_cpu() || !t.is_contiguous()) return at::isfinite(t.to(at::kFloat)).all().item<bool>();
  switch (t.scalar_type()) {
    case at::kFloat: return exponents_are_finite<uint32_t>(t.const_data_ptr(), t.numel(), 0x7f800000);
    case at::kHalf: return exponents_are_finite<uint16_t>(t.const_data_ptr(), t.numel(), 0x7c00);
    case at::kBFloat16: return exponents_are_finite<uint16_t>(t.const_data_ptr(), t.numel(), 0x7f80);
    default: return at::isfinite(t.to(at::kFloat)).all().item<bool>();
  }
}

bool all_finite(const LayerTensors& tensors) {
  return std::all_of(tensors.begin(), tensors.end(), [](auto& entry) { return all_finite(entry.second); });
}

bool all_finite(const LoraLayer& layer) {
  auto strength = counted_strength(layer);
  return (!strength || strength->is_usable()) && all_finite(layer.tensors);
}

const char* lacks_numbers(const Tensor& t) {
  if (!t.defined()) return "undefined";
  if (t.is_meta()) return "on the device meta";
  return t.layout() == at::kStrided ? nullptr : "sparse";
}

}  // namespace lora
