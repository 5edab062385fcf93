#include "nn/effect.h"

#include <ATen/ATen.h>

#include "nn/add_product.h"

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

}  // namespace

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
              int64_t end, const RowSums& rows) {
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
    add_product(to.scalar_type(), result.mutable_data_ptr(), start.const_data_ptr(), B.const_data_ptr<float>(),
                sum.A.const_data_ptr<float>(), end - begin, sum.A.size(1), sum.A.size(0));
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
  result.copy_(total);
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
