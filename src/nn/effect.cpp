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

bool alike(const Tensor& a, const Tensor& b) { return a.device() == b.device() && a.scalar_type() == b.scalar_type(); }

bool has_kernel(const Tensor& to) { return to.is_cpu() && to.is_contiguous() && has_add_product(to.scalar_type()); }

// The three functions below do to ← from + change. They measure it if `sums` is not nullptr, and return whether all
// results are finite. The first two do not allocate memory.

// The change is delta + B A. Each of the two may be undefined.
bool add_on_cpu(const Tensor& to, const Tensor& from, const Tensor& delta, const Tensor& B, const Tensor& A,
                ChangeSums* sums) {
  Addend change;
  if (delta.defined()) change.matrix = delta.const_data_ptr<float>();
  if (B.defined()) change.B = B.const_data_ptr<float>(), change.A = A.const_data_ptr<float>(), change.rank = A.size(0);
  return add_product(to.scalar_type(), to.mutable_data_ptr(), from.const_data_ptr(), change, to.size(0), to.size(1),
                     sums);
}

bool add_doubles(const Tensor& to, const Tensor& from, const Tensor& change, ChangeSums* sums) {
  auto* result = to.mutable_data_ptr<double>();
  const auto *start = from.const_data_ptr<double>(), *delta = change.const_data_ptr<double>();
  ChangeSums own;
  bool finite = true;
  for (int64_t i = 0; i < to.numel(); ++i) {
    const auto was = start[i], now = was + delta[i], error = now - was - delta[i];
    own.base += was * was, own.change += delta[i] * delta[i], own.lost += error * error;
    own.changed |= now != was;
    finite = finite && std::isfinite(now);
    result[i] = now;
  }
  if (sums) *sums += own;
  return finite;
}

bool add_tensors(const Tensor& to, const Tensor& from, const Tensor& change, ChangeSums* sums) {
  const auto was = from.to(change.scalar_type()), now = (was + change).to(to.scalar_type());
  if (sums) {
    auto squares = [](const Tensor& t) {
      const auto norm = at::linalg_vector_norm(t, 2, std::nullopt, false, at::kDouble).item<double>();
      return norm * norm;
    };
    const auto moved = now.to(change.scalar_type()) - was;
    *sums += {.base = squares(was),
              .change = squares(change),
              .lost = squares(at::where(at::isfinite(moved), moved - change, 0)),
              .changed = moved.any().item<bool>()};
  }
  to.copy_(now);
  return !sums || at::isfinite(now).all().item<bool>();
}

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
  return sum.changes_beyond_product() || (sum.B.defined() && !has_kernel(to));
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
  const auto B = sum.B.defined() ? rows_of(sum.B, begin, end) : Tensor();
  Tensor delta;  // the change by itself, so that it is known also where the sum rounds it away
  if (needs_row_sums(sum, to)) {
    auto view = [&](const Tensor& memory) {
      return memory.view(sum_dtype(to)).narrow(0, 0, result.numel()).view(result.sizes());
    };
    auto wide = view(rows.base), term = view(rows.term);
    delta = view(rows.sum).zero_();
    if (sum.gain.defined() || sum.input_gain.defined()) wide.copy_(own);
    if (sum.gain.defined()) delta.add_(at::mul_out(term, wide, rows_of(sum.gain, begin, end)));
    if (sum.input_gain.defined()) delta.add_(at::mul_out(term, wide, sum.input_gain));
    if (sum.weight.defined()) delta.add_(rows_of(sum.weight, begin, end));
    if (B.defined() && !has_kernel(to)) delta.addmm_(B, sum.A);
  }
  const bool wide_on_cpu = to.is_cpu() && to.is_contiguous() && to.scalar_type() == at::kDouble;
  const bool finite = has_kernel(to) ? add_on_cpu(result, start, delta, B, sum.A, sums)
                      : wide_on_cpu  ? add_doubles(result, start, delta, sums)
                                     : add_tensors(result, start, delta, sums);
  if (sums && !finite) sums->not_finite += count_not_finite(result);
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
