#include "nn/effect.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

namespace lora {

namespace {

Dtype sum_dtype(const Tensor& weight) { return weight.scalar_type() == at::kDouble ? at::kDouble : at::kFloat; }

void add(Tensor& sum, const Tensor& term) { sum = sum.defined() ? sum + term : term; }

// Concatenates matrices along `dim`.
Tensor joined(const std::vector<Tensor>& parts, int64_t dim) {
  return (parts.size() == 1 ? parts.front() : at::cat(parts, dim)).contiguous();
}

// Repeats the factor of each input channel for all columns of the channel.
Tensor for_columns(const Tensor& input_gain, const Tensor& weight) {
  auto positions = weight[0].numel() / input_gain.size(0);
  return input_gain.repeat_interleave(positions).unsqueeze(0);
}

Tensor rows_of(const Tensor& matrix, int64_t begin, int64_t end) { return matrix.slice(0, begin, end); }

// Measures the rounding of a sum. Returns whether all results are finite. It does not allocate memory on the CPU.
bool measure(const Tensor& from, const Tensor& total, ChangeSums& sums) {
  if (from.is_cpu() && from.is_contiguous() && from.scalar_type() == at::kDouble) {  // not rounded
    const auto *was = from.const_data_ptr<double>(), *now = total.const_data_ptr<double>();
    bool finite = true;
    for (int64_t i = 0; i < from.numel(); ++i) {
      sums.base += was[i] * was[i], sums.change += (now[i] - was[i]) * (now[i] - was[i]);
      finite = finite && std::isfinite(now[i]);
    }
    return finite;
  }
  if (from.is_cpu() && from.is_contiguous() && has_add_product(from.scalar_type()))
    return measure_rounding(from.scalar_type(), from.const_data_ptr(), total.const_data_ptr<float>(), total.size(0),
                            total.size(1), sums);
  auto squares = [](const Tensor& t) { return t.square().sum(at::kDouble).item<double>(); };
  auto was = from.to(total.scalar_type()), rounded = total.to(from.scalar_type());
  sums.base += squares(was), sums.change += squares(total - was);
  auto finite = at::isfinite(rounded);
  sums.lost += squares(at::where(finite, rounded.to(total.scalar_type()) - total, 0));
  return finite.all().item<bool>();
}

bool alike(const Tensor& a, const Tensor& b) { return a.device() == b.device() && a.scalar_type() == b.scalar_type(); }

}  // namespace

int64_t count_not_finite(const Tensor& t) {
  auto count = [&]<class T>(T) {
    const auto* numbers = t.const_data_ptr<T>();
    return std::count_if(numbers, numbers + t.numel(), [](T x) { return !std::isfinite(double(x)); });
  };
  if (t.is_cpu() && t.is_contiguous()) switch (t.scalar_type()) {
      case at::kFloat: return count(float());
      case at::kDouble: return count(double());
      case at::kHalf: return count(c10::Half());
      case at::kBFloat16: return count(c10::BFloat16());
      default: break;
    }
  return t.numel() - at::isfinite(t).sum().item<int64_t>();
}

Tensor as_matrix(const Tensor& weight) { return weight.dim() == 1 ? weight.unsqueeze(1) : weight.flatten(1); }

EffectSum sum_of(const std::vector<Effect>& effects, SiteKind kind, const Tensor& weight, Products products) {
  const auto dtype = sum_dtype(weight);
  const auto device = weight.device();
  EffectSum sum;
  std::vector<Tensor> up, down;
  for (const auto& effect : effects) {
    if (effect.A.defined() && products == Products::with) {
      bool embeds = kind == SiteKind::embedding;
      up.push_back(as_matrix(embeds ? effect.A.t() : effect.B).to(device, dtype) * effect.scale);
      down.push_back(as_matrix(embeds ? effect.B.t() : effect.A).to(device, dtype));
    }
    // Each effect changes the base, so the differences of the gains from 1 are added.
    if (effect.gain.defined()) add(sum.gain, (effect.gain - 1).unsqueeze(1).to(device, dtype));
    if (effect.input_gain.defined())
      add(sum.input_gain, for_columns((effect.input_gain - 1).to(device, dtype), weight));
    if (effect.weight.defined()) add(sum.weight, as_matrix(effect.weight).to(device, dtype));
    if (effect.bias.defined()) add(sum.bias, effect.bias.to(device, dtype));
  }
  if (!up.empty()) sum.B = joined(up, 1), sum.A = joined(down, 0);
  return sum;
}

RowSums RowSums::of(int64_t numbers, const Tensor& like) {
  auto make = [&] { return at::empty({numbers}, like.options().dtype(sum_dtype(like))); };
  return {make(), make(), make()};
}

bool needs_row_sums(const EffectSum& sum, const Tensor& to) {
  bool has_kernel = to.is_cpu() && to.is_contiguous() && has_add_product(to.scalar_type());
  return sum.changes_beyond_product() || (sum.B.defined() && !has_kernel);
}

void add_rows(const EffectSum& sum, const Tensor& from, const Tensor& base, const Tensor& to, int64_t begin,
              int64_t end, const RowSums& rows, ChangeSums* sums) {
  auto result = rows_of(to, begin, end), start = rows_of(from, begin, end), own = rows_of(base, begin, end);
  if (!alike(from, to) || !start.is_contiguous()) {  // converts the base to the dtype of the model, as a load does
    result.copy_(start);
    if (base.is_same(from)) own = result;
    start = result;
  }
  if (!sum.changes_weight()) {
    if (!start.is_same(result)) result.copy_(start);
    return;
  }
  auto B = sum.B.defined() ? rows_of(sum.B, begin, end) : Tensor();
  if (!needs_row_sums(sum, to)) {
    bool finite =
        add_product(to.scalar_type(), result.mutable_data_ptr(), start.const_data_ptr(), B.const_data_ptr<float>(),
                    sum.A.const_data_ptr<float>(), end - begin, sum.A.size(1), sum.A.size(0), sums);
    if (sums && !finite) sums->not_finite += count_not_finite(result);
    return;
  }
  auto view = [&](const Tensor& memory) { return memory.narrow(0, 0, result.numel()).view(result.sizes()); };
  auto total = view(rows.sum), wide = view(rows.base), term = view(rows.term);
  total.copy_(start);
  if (sum.gain.defined() || sum.input_gain.defined()) wide.copy_(own);
  if (sum.gain.defined()) total.add_(at::mul_out(term, wide, rows_of(sum.gain, begin, end)));
  if (sum.input_gain.defined()) total.add_(at::mul_out(term, wide, sum.input_gain));
  if (sum.weight.defined()) total.add_(rows_of(sum.weight, begin, end));
  if (B.defined()) total.addmm_(B, sum.A);
  bool finite = !sums || measure(start, total, *sums);
  result.copy_(total);
  if (!finite) sums->not_finite += count_not_finite(result);
}

Tensor with_effects(const EffectSum& sum, const Tensor& from, const Tensor& base) {
  auto result = at::empty(from.sizes(), from.options(), at::MemoryFormat::Contiguous);
  auto to = as_matrix(result);
  add_rows(sum, as_matrix(from), as_matrix(base), to, 0, to.size(0), RowSums::of(to.numel(), to));
  return result;
}

Tensor with_effect(const Effect& effect, SiteKind kind, const Tensor& weight) {
  auto W = weight.to(at::kFloat);
  return with_effects(sum_of({effect}, kind, W), W, W);
}

}  // namespace lora
