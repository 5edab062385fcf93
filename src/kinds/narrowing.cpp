#include "kinds/narrowing.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <set>
#include <utility>

#include "core/check.h"
#include "core/text.h"
#include "kinds/builtin.h"
#include "kinds/kinds.h"
#include "kinds/lora.h"

namespace lora {

namespace {

// Magnitudes of a number in float32, on its way to a dtype.
struct Range {
  Dtype dtype;
  float zero;       // at and below it, the number becomes 0
  float precise;    // below it, the number loses digits
  float infinite;   // at and above it, the number becomes infinite or the largest of the dtype
  double rounding;  // what rounding costs at most, relative to the number
};

constexpr Range kRanges[] = {
    {at::kFloat, 0, 0x1p-126f, std::numeric_limits<float>::infinity(), 0x1p-24},
    {at::kBFloat16, 0x1p-134f, 0x1p-126f, 0x1.FFp127f, 0x1p-8},
    {at::kHalf, 0x1p-25f, 0x1p-14f, 65520, 0x1p-11},
    {at::kFloat8_e5m2, 0x1p-17f, 0x1p-14f, 61440, 0x1p-3},
    {at::kFloat8_e4m3fn, 0x1p-10f, 0x1p-6f, 464, 0x1p-4},
};

// float32's for a dtype that is not listed.
const Range& range_of(Dtype dtype) {
  auto found = std::find_if(std::begin(kRanges), std::end(kRanges), [&](auto& range) { return range.dtype == dtype; });
  return found == std::end(kRanges) ? kRanges[0] : *found;
}

// Blocks of one length let the compiler vectorise the loop.
template <class Number>
Narrowing count(const Tensor& tensor, const Range& to) {
  constexpr int64_t kBlock = 1024;
  constexpr auto kLargest = std::numeric_limits<Number>::max();
  const auto [dtype, zero, precise, infinite, rounding] = to;
  const auto* numbers = tensor.const_data_ptr<Number>();
  std::array<Number, kBlock> last{};
  Narrowing result;
  for (int64_t begin = 0; begin < tensor.numel(); begin += kBlock) {
    const auto* block = numbers + begin;
    if (tensor.numel() - begin < kBlock) {
      std::copy(block, numbers + tensor.numel(), last.begin());
      block = last.data();
    }
    int32_t nonzero = 0, flushed = 0, imprecise = 0, overflowed = 0;
    for (int64_t i = 0; i < kBlock; ++i) {
      Number number = std::fabs(block[i]);
      float magnitude = float(number);
      nonzero += number > 0;
      flushed += (number > 0) & (magnitude <= zero);
      imprecise += (number > 0) & (magnitude < precise);
      overflowed += (magnitude >= infinite) & (number <= kLargest);  // not what was infinite before
    }
    result.nonzero += nonzero, result.flushed += flushed;
    result.imprecise += imprecise, result.overflowed += overflowed;
  }
  return result;
}

// The error of a tensor in a dtype, relative to the tensor. In blocks, which stay in a core's cache.
double relative_error(const Tensor& tensor, Dtype dtype) {
  constexpr int64_t kBlock = 1 << 16;
  double size = 0, difference = 0;  // squared
  for (const auto& block : tensor.detach().reshape(-1).split(kBlock)) {
    auto wanted = block.to(at::kDouble);
    auto apart = block.to(dtype).to(at::kDouble) - wanted;
    size += at::dot(wanted, wanted).item<double>();
    difference += at::dot(apart, apart).item<double>();
  }
  return std::isfinite(difference / size) ? std::sqrt(difference / size) : 1;
}

// What it is at most, told by the counts. A number that loses digits is wrong by at most `rounding` times `precise`.
double most_error(const Narrowing& counts, const Range& range) {
  auto precise = counts.nonzero - counts.imprecise;
  return range.rounding * (precise > 0 ? std::sqrt(double(counts.nonzero) / double(precise)) : 1.0);
}

// ---- Rescaling ------------------------------------------------------------------------------------------------------

// The smallest e with |t| < 2^e for all numbers of t. Nothing for a tensor of zeros.
std::optional<int> exponent_of(const Tensor& t) {
  auto largest = t.numel() > 0 ? t.to(at::kDouble).abs().max().item<double>() : 0.0;
  if (!(largest > 0) || !std::isfinite(largest)) return std::nullopt;
  int exponent = 0;
  std::frexp(largest, &exponent);
  return exponent;
}

// The powers of two that bring the factors to one size. Their sum is 0. lora_A stays below 1 as far as the other
// factors have room, because its outputs are in the dtype too. Nothing if a factor is zero.
std::vector<int> shifts_of(const std::vector<std::string_view>& suffixes, const std::vector<Tensor>& factors,
                           const Range& range) {
  std::vector<int> sizes;
  int left = 0;  // for this factor and the ones after it
  for (const auto& factor : factors) {
    auto size = exponent_of(factor);
    if (!size) return {};
    sizes.push_back(*size);
    left += *size;
  }
  const int most = std::ilogb(std::min(range.infinite, std::numeric_limits<float>::max()));
  std::vector<int> shifts;
  for (size_t i = 0; i < factors.size(); ++i) {
    int others = int(factors.size() - i) - 1;
    int size = int(std::floor(double(left) / (others + 1)));
    if (suffixes[i] == kDown) size = std::min(size, std::max(0, left - others * most));
    shifts.push_back(size - sizes[i]);
    left -= size;
  }
  return shifts;
}

using Counts = std::map<std::string_view, Narrowing>;  // by suffix

// What is lost of factors: numbers that are too large, then the largest error.
std::pair<int64_t, double> lost(const std::vector<Tensor>& factors, const std::vector<Narrowing>& counts, Dtype dtype) {
  std::pair<int64_t, double> all;
  for (size_t i = 0; i < factors.size(); ++i) {
    all.first += counts[i].overflowed;
    all.second = std::max(all.second, relative_error(factors[i], dtype));
  }
  return all;
}

// Whether the factors were rescaled: they do not fit, and lose less so.
bool rescale(LayerTensors& tensors, Counts& counts, Dtype dtype) {
  auto* kind = kind_of(tensors);
  if (!kind) return false;
  std::vector<std::string_view> suffixes;
  std::vector<Tensor> before, after;
  std::vector<Narrowing> counts_before, counts_after;
  for (auto suffix : kind->multiplied()) {
    auto found = counts.find(suffix);
    if (found == counts.end()) continue;
    suffixes.push_back(suffix);
    before.push_back(get(tensors, suffix));
    counts_before.push_back(found->second);
  }
  if (std::all_of(counts_before.begin(), counts_before.end(), [](auto& count) { return count.fits(); })) return false;
  auto shifts = shifts_of(suffixes, before, range_of(dtype));
  if (std::all_of(shifts.begin(), shifts.end(), [](int shift) { return shift == 0; })) return false;
  for (size_t i = 0; i < before.size(); ++i) {
    after.push_back(before[i].to(at::kDouble).mul(std::ldexp(1.0, shifts[i])));
    counts_after.push_back(narrowing(after[i], dtype));
  }
  if (lost(after, counts_after, dtype) >= lost(before, counts_before, dtype)) return false;
  for (size_t i = 0; i < before.size(); ++i) {
    tensors.find(suffixes[i])->second = after[i];
    counts[suffixes[i]] = counts_after[i];
  }
  return true;
}

// ---- What is lost ---------------------------------------------------------------------------------------------------

bool is_bias(std::string_view suffix) {
  auto* family = family_of(suffix);
  return suffix == kUpBias || family == &bias_difference() || family == &whole_bias();
}

void add(DtypeLoss& loss, const std::string& suffix, const Tensor& tensor, const Narrowing& counts, bool is_needed) {
  if (tensor.scalar_type() == loss.dtype) return;
  auto error = counts.fits() ? most_error(counts, range_of(loss.dtype)) : relative_error(tensor, loss.dtype);
  loss.error = std::max(loss.error, error);
  loss.overflowed += counts.overflowed;
  if (counts.overflowed > 0 && !loss.overflowing) loss.overflowing = suffix;
  if (is_needed && counts.nonzero > 0 && counts.flushed == counts.nonzero && !loss.dead) loss.dead = suffix;
  if (counts.flushes_few()) return;
  loss.flushed += counts.flushed, loss.nonzero += counts.nonzero;
  loss.error_of_flushed = std::max(loss.error_of_flushed, error);
}

std::string wider_than(Dtype dtype) {
  return dtype == at::kFloat ? "float64" : dtype == at::kBFloat16 ? "float32" : "bfloat16 or float32";
}

std::string with_tensor(const std::string& layer, const std::string& suffix) {
  return suffix.empty() ? layer : fmt::format("{} ({})", layer, suffix);
}

void tell_losses_in(Dtype dtype, const std::map<std::string, DtypeLoss>& losses, const std::string& source,
                    Advice advice, std::vector<std::string>& notes) {
  std::vector<std::string> dead, overflowing, rescaled, flushed;
  DtypeLoss sum;
  for (const auto& [layer, loss] : losses) {
    if (loss.dtype != dtype) continue;
    if (loss.dead) dead.push_back(with_tensor(layer, *loss.dead));
    if (loss.overflowing) overflowing.push_back(with_tensor(layer, *loss.overflowing));
    if (loss.rescaled) rescaled.push_back(layer);
    if (loss.flushed > 0) flushed.push_back(layer);
    sum.overflowed += loss.overflowed, sum.flushed += loss.flushed, sum.nonzero += loss.nonzero;
    sum.error_of_flushed = std::max(sum.error_of_flushed, loss.error_of_flushed);
  }
  auto name = to_string(dtype), help = advice(wider_than(dtype));
  check(overflowing.empty(), ErrorKind::unsupported, "{}: {} cannot hold {} of {}, which are too large for it: {}; {}",
        source, name, counted(size_t(sum.overflowed), "number"), counted(overflowing.size(), "layer"),
        listing(overflowing, 3), help);
  check(dead.empty(), ErrorKind::unsupported,
        "{}: {} cannot hold {}: all numbers of a tensor are too small for it and would become 0: {}; {}", source, name,
        counted(dead.size(), "layer"), listing(dead, 3), help);
  if (!rescaled.empty())
    notes.push_back(fmt::format(
        "{} cannot hold all numbers of the factors of {} as they are. The factors were multiplied by powers of two, "
        "and their products are the same: {}",
        name, counted(rescaled.size(), "layer"), listing(rescaled, 3)));
  if (!flushed.empty())
    notes.push_back(fmt::format(
        "{} of {} numbers in {} are so small that {} makes them 0; a tensor loses at most {:.2g} % of its size: {}; {}",
        sum.flushed, sum.nonzero, counted(flushed.size(), "layer"), name, 100 * sum.error_of_flushed,
        listing(flushed, 3), help));
}

}  // namespace

bool narrows(Dtype from, Dtype to) {
  if (from == to || !c10::isFloatingType(from)) return false;
  const auto &wide = range_of(from), &narrow = range_of(to);
  return from == at::kDouble || wide.zero < narrow.zero || wide.infinite > narrow.infinite;
}

Narrowing narrowing(const Tensor& tensor, Dtype to) {
  if (!narrows(tensor.scalar_type(), to)) return {};
  bool is_double = tensor.scalar_type() == at::kDouble;
  auto numbers = tensor.detach().to(at::kCPU, is_double ? at::kDouble : at::kFloat).contiguous();
  return is_double ? count<double>(numbers, range_of(to)) : count<float>(numbers, range_of(to));
}

Fitted fitted(LayerTensors tensors, Dtype dtype, const std::function<bool(std::string_view suffix)>& is_cast) {
  Fitted result{.tensors = std::move(tensors), .loss = {.dtype = dtype}};
  Counts counts;
  for (const auto& [suffix, tensor] : result.tensors)
    if (tensor.is_floating_point() && is_cast(suffix)) counts[suffix] = narrowing(tensor, dtype);
  result.loss.rescaled = rescale(result.tensors, counts, dtype);
  bool only_bias =
      std::all_of(result.tensors.begin(), result.tensors.end(), [](auto& entry) { return is_bias(entry.first); });
  for (const auto& [suffix, tensor] : result.tensors)
    if (auto found = counts.find(suffix); found != counts.end())
      add(result.loss, suffix, tensor, found->second, only_bias || !is_bias(suffix));
  return result;
}

std::vector<std::string> tell_losses(const std::map<std::string, DtypeLoss>& losses, const std::string& source,
                                     Advice advice) {
  std::set<Dtype> dtypes;
  for (const auto& [layer, loss] : losses) dtypes.insert(loss.dtype);
  std::vector<std::string> notes;
  for (auto dtype : dtypes) tell_losses_in(dtype, losses, source, advice, notes);
  return notes;
}

}  // namespace lora
