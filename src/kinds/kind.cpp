// What all kinds do alike: names, and fused layers cut and joined along the dimension that counts rows.
#include "kinds/kind.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "core/check.h"
#include "kinds/kinds.h"

namespace lora {

Tensor get(const LayerTensors& tensors, std::string_view suffix) {
  auto it = tensors.find(suffix);
  return it == tensors.end() ? Tensor() : it->second;
}

double number(const Tensor& t) { return t.to(at::kDouble).item<double>(); }

std::string missing_among(const LayerTensors& tensors, std::initializer_list<std::string_view> all) {
  std::string_view there, missing;
  for (auto suffix : all) (tensors.contains(suffix) ? there : missing) = suffix;
  return there.empty() || missing.empty() ? "" : "no " + std::string(missing);
}

int64_t size_of(const LayerTensors& tensors, std::string_view suffix, int64_t dim) {
  auto t = get(tensors, suffix);
  return t.defined() && t.dim() > dim ? t.size(dim) : 0;
}

int64_t columns_of(const LayerTensors& tensors, std::string_view suffix) {
  auto t = get(tensors, suffix);
  return t.defined() && t.dim() > 0 && t.size(0) > 0 ? t.numel() / t.size(0) : 0;
}

std::string size_text(int64_t rows, int64_t columns, std::span<const int64_t> kernel) {
  auto positions = kernel.size() == 2 ? kernel[0] * kernel[1] : 0;
  if (positions == 0 || columns % positions != 0) return fmt::format("{} → {}", columns, rows);
  return fmt::format("{} → {} with a {}×{} kernel", columns / positions, rows, kernel[0], kernel[1]);
}

std::string size_text(const Tensor& weight) {
  auto sizes = weight.sizes();
  return size_text(sizes[0], weight.numel() / std::max<int64_t>(sizes[0], 1),
                   sizes.slice(std::min<size_t>(2, sizes.size())));
}

std::pair<int64_t, int64_t> rows_of(int64_t n, RowSlice slice, const std::string& label) {
  check(n % slice.of == 0, ErrorKind::bad_shape, "{}: {} rows are not {} parts of one size", label, n, slice.of);
  return {n / slice.of * slice.begin, n / slice.of * slice.end};
}

Strength strength_of(const LoraLayer& layer, int64_t rank) {
  auto r = double(rank);
  if (layer.scale) return {layer.alpha.value_or(*layer.scale * r), *layer.scale};
  if (!layer.alpha) return {r, 1.0};
  return {*layer.alpha, rank == 0 ? 1.0 : *layer.alpha / r};
}

bool TensorFamily::has_any(const LayerTensors& tensors) const {
  auto all = names();
  return std::any_of(all.begin(), all.end(),
                     [&](auto& n) { return n.only_beside.empty() && tensors.contains(n.ours); });
}

std::string_view TensorFamily::kohya_end(const LayerTensors&, std::string_view suffix) const {
  for (const auto& n : names())
    if (n.ours == suffix && !n.kohya.empty()) return n.kohya;
  return "";
}

// ---- Fused layers ---------------------------------------------------------------------------------------------------

LoraLayer cut_rows(const LoraLayer& whole, RowSlice slice, const std::string& label) {
  auto part = whole;
  for (auto& [suffix, tensor] : part.tensors) {
    auto dim = row_dim_of(whole.tensors, suffix, label);
    if (dim < 0) continue;
    auto [from, to] = rows_of(tensor.size(dim), slice, label);
    tensor = tensor.slice(dim, from, to);
  }
  return part;
}

LoraLayer swap_halves(const LoraLayer& layer, const std::string& label) {
  auto swapped = layer;
  for (auto& [suffix, tensor] : swapped.tensors) {
    auto dim = row_dim_of(layer.tensors, suffix, label);
    if (dim < 0) continue;
    auto n = tensor.size(dim);
    check(n % 2 == 0, ErrorKind::unsupported, "{}: {} has {} rows, which cannot be cut into two halves", label, suffix,
          n);
    tensor = at::cat({tensor.slice(dim, n / 2), tensor.slice(dim, 0, n / 2)}, dim);
  }
  return swapped;
}

namespace {

bool same(const Tensor& a, const Tensor& b) {
  if (a.sizes() != b.sizes() || a.scalar_type() != b.scalar_type()) return false;
  return (a.data_ptr() == b.data_ptr() && a.strides() == b.strides()) || at::equal(a, b);
}

}  // namespace

bool have_same_inputs(const std::vector<SlicedLayer>& parts) {
  const auto& first = parts.front().layer;
  return std::all_of(parts.begin() + 1, parts.end(), [&](auto& part) {
    if (part.layer.alpha != first.alpha || part.layer.scale != first.scale) return false;
    return std::all_of(first.tensors.begin(), first.tensors.end(), [&](auto& entry) {
      auto other = get(part.layer.tensors, entry.first);
      return other.defined() && (row_dim_of(first.tensors, entry.first, "") >= 0 || same(entry.second, other));
    });
  });
}

Tensor joined_rows(const std::vector<std::pair<RowSlice, Tensor>>& parts, int dim) {
  std::vector<Tensor> all;
  int done = 0;
  auto add_zeros = [&](int rows, const Tensor& like, int like_rows) {
    if (rows <= 0) return;
    auto shape = like.sizes().vec();
    shape[dim] = shape[dim] / like_rows * rows;
    all.push_back(at::zeros(shape, like.options()));
  };
  for (const auto& [slice, tensor] : parts) {
    add_zeros(slice.begin - done, tensor, slice.parts());
    all.push_back(tensor);
    done = slice.end;
  }
  add_zeros(parts.back().first.of - done, parts.back().second, parts.back().first.parts());
  return all.size() == 1 ? all.front() : at::cat(all, dim);
}

bool cover_all_rows(const std::vector<SlicedLayer>& parts) {
  int covered = 0;
  for (const auto& part : parts) covered += part.rows.parts();
  return covered == parts.front().rows.of;
}

LoraLayer join_rows(const std::vector<SlicedLayer>& parts, bool same_inputs, const std::string& label) {
  auto joined = parts.front().layer;
  for (auto& [suffix, tensor] : joined.tensors) {
    auto dim = row_dim_of(parts.front().layer.tensors, suffix, label);
    if (dim < 0) {
      check(same_inputs, ErrorKind::unsupported,
            "{}: {} of the layers that go together here differ in what they make of their inputs", label, suffix);
      continue;
    }
    check(cover_all_rows(parts) || family_of(suffix)->zero_is_none(suffix), ErrorKind::unsupported,
          "{}: some of the layers that go together here have no {}", label, suffix);
    std::vector<std::pair<RowSlice, Tensor>> rows;
    for (const auto& part : parts) rows.emplace_back(part.rows, part.layer.tensors.find(suffix)->second);
    tensor = joined_rows(rows, dim);
  }
  return joined;
}

LoraLayer Kind::cut(const LoraLayer& whole, RowSlice slice, const std::string& label) const {
  return cut_rows(whole, slice, label);
}

LoraLayer Kind::with_halves_swapped(const LoraLayer& layer, const std::string& label) const {
  return swap_halves(layer, label);
}

bool Kind::same_inputs(const std::vector<SlicedLayer>& parts) const { return have_same_inputs(parts); }

LoraLayer Kind::join(const std::vector<SlicedLayer>& parts, bool same_inputs, const std::string& label) const {
  return join_rows(parts, same_inputs, label);
}

}  // namespace lora
