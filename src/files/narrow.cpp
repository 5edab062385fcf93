#include "files/narrow.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "core/check.h"
#include "core/text.h"
#include "kinds/builtin.h"
#include "kinds/diff.h"
#include "kinds/kinds.h"
#include "kinds/lora.h"

namespace lora {

namespace {

struct Cast {
  Tensor tensor;
  int64_t zeros = 0, overflows = 0;
  bool dead = false;
  double error = 0;  // relative, of all numbers together
};

int64_t count_numbers(const Tensor& t) { return at::count_nonzero(t).item<int64_t>(); }

// The Frobenius norm. Squares of tiny numbers need a wider dtype.
double length(const Tensor& t) {
  constexpr double kTiny = 1e-12;
  auto quick = t.norm().item<double>();
  return quick > kTiny || t.scalar_type() == at::kDouble ? quick : t.to(at::kDouble).norm().item<double>();
}

// The largest number of a dtype. Some dtypes turn larger ones into this number, and not into infinity.
double largest(Dtype dtype) {
  switch (dtype) {
    case at::kHalf: return 65504;
    case at::kBFloat16: return 0x1.FEp127;
    case at::kFloat8_e4m3fn: return 448;
    case at::kFloat8_e5m2: return 57344;
    default: return 0x1.FFFFFEp127;
  }
}

// What rounding to a dtype costs at most, relative to the number.
double rounding(Dtype dtype) {
  switch (dtype) {
    case at::kHalf: return 0x1p-11;
    case at::kBFloat16: return 0x1p-8;
    case at::kFloat8_e4m3fn: return 0x1p-4;
    case at::kFloat8_e5m2: return 0x1p-3;
    default: return 0x1p-24;
  }
}

// `tensor` times two to the power of `exponent`, in `dtype`. In blocks, which stay in a core's cache.
Cast cast(const Tensor& tensor, Dtype dtype, int exponent = 0) {
  if (exponent == 0 && tensor.scalar_type() == dtype) return {tensor};
  constexpr int64_t kBlock = 1 << 17;
  auto wide = exponent != 0 || tensor.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  auto flat = tensor.reshape(-1), result = at::empty({flat.numel()}, flat.options().dtype(dtype));
  Cast done;
  int64_t before = 0, after = 0;
  double size = 0, difference = 0;  // squared
  for (int64_t begin = 0; begin < flat.numel(); begin += kBlock) {
    auto end = std::min(begin + kBlock, flat.numel());
    auto wanted = flat.slice(0, begin, end).to(wide);
    if (exponent != 0) wanted = wanted.mul(std::ldexp(1.0, exponent));
    auto place = result.slice(0, begin, end);
    place.copy_(wanted);
    auto got = place.to(wide);
    before += count_numbers(wanted);
    after += count_numbers(got);
    auto apart = length(got - wanted), whole = length(wanted);
    if (!(whole <= largest(dtype))) {
      auto beyond = wanted.abs() > largest(dtype) * (1 + rounding(dtype));
      done.overflows += (at::isfinite(wanted) & (beyond | at::isfinite(got).logical_not())).sum().item<int64_t>();
    }
    size += whole * whole;
    difference += apart * apart;
  }
  done.tensor = result.view(tensor.sizes());
  done.zeros = before - after;
  done.dead = before > 0 && after == 0;
  if (size > 0 && std::isfinite(difference / size)) done.error = std::sqrt(difference / size);
  return done;
}

// The number e with |t| < 2^e for all finite numbers of t; nothing for a tensor of zeros.
std::optional<int> exponent_of(const Tensor& t) {
  auto wide = t.to(at::kDouble).abs();
  auto most = wide.nan_to_num(0.0, 0.0, 0.0).max().item<double>();
  if (most == 0) return std::nullopt;
  return std::ilogb(most) + 1;
}

// What each factor is multiplied by, as powers of two whose sum is zero, so that all factors have one size.
std::vector<int> balance(const std::vector<Tensor>& factors) {
  std::vector<int> sizes;
  for (const auto& factor : factors) {
    auto exponent = exponent_of(factor);
    if (!exponent) return {};
    sizes.push_back(*exponent);
  }
  int sum = std::accumulate(sizes.begin(), sizes.end(), 0), n = int(sizes.size());
  int mean = int(std::floor(double(sum) / n)), rest = sum - mean * n;
  std::vector<int> shifts;
  for (int i = 0; i < n; ++i) shifts.push_back(mean + (i < rest) - sizes[i]);
  return shifts;
}

bool is_bias(std::string_view suffix) { return suffix == kUpBias || family_of(suffix) == &bias_difference(); }

using Casts = std::map<std::string, std::pair<Cast, int>, std::less<>>;  // by suffix, with the exponents

// What is lost of all of them: numbers that are too large, then the largest error.
std::pair<int64_t, double> lost(const Casts& casts) {
  std::pair<int64_t, double> all;
  for (const auto& [suffix, done] : casts) {
    all.first += done.first.overflows;
    all.second = std::max(all.second, done.first.error);
  }
  return all;
}

// The factors of the layer's kind in `dtype`, rescaled if that loses less.
Casts cast_factors(const LoraLayer& layer, Dtype dtype) {
  std::vector<std::string> suffixes;
  std::vector<Tensor> factors;
  if (auto* kind = kind_of(layer.tensors))
    for (auto suffix : kind->multiplied())
      if (auto tensor = get(layer.tensors, suffix); tensor.defined() && tensor.is_floating_point()) {
        suffixes.emplace_back(suffix);
        factors.push_back(tensor);
      }
  auto cast_all = [&](const std::vector<int>& exponents) {
    Casts casts;
    for (size_t i = 0; i < factors.size(); ++i)
      casts[suffixes[i]] = {cast(factors[i], dtype, exponents[i]), exponents[i]};
    return casts;
  };
  auto plain = cast_all(std::vector<int>(factors.size()));
  constexpr double kUsual = 4;  // times the rounding: a few numbers that become zero among larger ones do not count
  if (auto [overflows, error] = lost(plain); overflows == 0 && error <= kUsual * rounding(dtype)) return plain;
  auto shifts = balance(factors);
  if (shifts.empty()) return plain;
  auto balanced = cast_all(shifts);
  return lost(balanced) < lost(plain) ? balanced : plain;
}

}  // namespace

LoraLayer narrowed(LoraLayer layer, Dtype dtype, DtypeLoss& loss) {
  loss.dtype = dtype;
  auto casts = cast_factors(layer, dtype);
  bool only_bias = std::all_of(layer.tensors.begin(), layer.tensors.end(), [](auto& t) { return is_bias(t.first); });
  for (auto& [suffix, tensor] : layer.tensors) {
    if (!tensor.is_floating_point()) continue;
    auto factor = casts.find(suffix);
    auto [done, exponent] = factor == casts.end() ? std::pair(cast(tensor, dtype), 0) : factor->second;
    loss.numbers += tensor.numel();
    loss.zeros += done.zeros;
    loss.overflows += done.overflows;
    loss.dead |= done.dead && (only_bias || !is_bias(suffix));
    loss.rescaled |= exponent != 0;
    loss.error = std::max(loss.error, done.error);
    if (done.zeros > 0) loss.error_of_zeros = std::max(loss.error_of_zeros, done.error);
    tensor = done.tensor;
  }
  return layer;
}

namespace {

void tell_losses_of(const std::map<std::string, DtypeLoss>& losses, Dtype dtype, const std::string& source,
                    std::vector<std::string>& notes) {
  std::vector<std::string> dead, overflowing, rescaled, flushed;
  int64_t zeros = 0, numbers = 0, overflows = 0;
  double error = 0;
  for (const auto& [name, loss] : losses) {
    if (loss.dtype != dtype) continue;
    if (loss.dead) dead.push_back(name);
    if (loss.overflows > 0) overflowing.push_back(name);
    if (loss.rescaled) rescaled.push_back(name);
    if (loss.zeros > 0) flushed.push_back(name);
    overflows += loss.overflows;
    zeros += loss.zeros;
    numbers += loss.numbers;
    error = std::max(error, loss.error_of_zeros);
  }
  auto name = to_string(dtype);
  auto wider = dtype == at::kBFloat16 ? "float32" : "bfloat16 and float32";
  check(overflowing.empty(), ErrorKind::unsupported,
        "{}: {} cannot hold {} of {}, which are too large for it: {}. {} can", source, name,
        counted(size_t(overflows), "number"), counted(overflowing.size(), "layer"), listing(overflowing, 3), wider);
  check(dead.empty(), ErrorKind::unsupported,
        "{}: {} cannot hold {}: all numbers of a tensor are too small for it and would become zero: {}. {} can", source,
        name, counted(dead.size(), "layer"), listing(dead, 3), wider);
  if (!rescaled.empty())
    notes.push_back(fmt::format(
        "{} cannot hold all numbers of the factors of {} as they are. The factors were multiplied by powers of two, "
        "and their products are the same: {}",
        name, counted(rescaled.size(), "layer"), listing(rescaled, 3)));
  if (!flushed.empty())
    notes.push_back(fmt::format(
        "{} of {} numbers, in {}, are too small for {} and became zero; a tensor lost at most {:.2g} % of its size: {}",
        zeros, numbers, counted(flushed.size(), "layer"), name, 100 * error, listing(flushed, 3)));
}

}  // namespace

void tell_losses(const std::map<std::string, DtypeLoss>& losses, const std::string& source,
                 std::vector<std::string>& notes) {
  std::set<Dtype> dtypes;
  for (const auto& [name, loss] : losses) dtypes.insert(loss.dtype);
  for (auto dtype : dtypes) tell_losses_of(losses, dtype, source, notes);
}

}  // namespace lora
