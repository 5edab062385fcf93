#include "dialects/fused.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "core/check.h"
#include "kinds/glora.h"

namespace lora {

namespace {

const Tensor* find(const Module& module, const std::string& suffix) {
  auto it = module.find(suffix);
  return it == module.end() ? nullptr : &it->second;
}

bool is_old_glora(const Module& m) {
  return lora::is_old_glora(m.at("a1.weight"), m.at("a2.weight"), m.at("b1.weight"), m.at("b2.weight"));
}

bool acts_on_input(const Module& m) {
  auto* on_input = find(m, "on_input");
  return on_input && on_input->to(at::kDouble).item<double>() != 0;
}

double alpha_of(const Module& m, double otherwise) {
  auto* alpha = find(m, "alpha");
  return alpha ? alpha->to(at::kDouble).item<double>() : otherwise;
}

// Along which dimension a tensor counts the layer's rows; -1 for what every row shares.
int row_dim(const Module& m, const std::string& suffix, const Tensor& t, const std::string& label) {
  static const std::map<std::string, int> kDims = {
      {"lora_B.weight", 0}, {"lora_B.bias", 0}, {"diff", 0},    {"diff_b", 0},
      {"lokr_w1", 0},       {"lokr_w1_a", 0},   {"rescale", 0}, {"oft_blocks", 0},
  };
  if (auto it = kDims.find(suffix); it != kDims.end()) return it->second;
  if (suffix == "hada_w1_a") return m.contains("hada_t1") ? 1 : 0;
  if (suffix == "hada_w2_a") return m.contains("hada_t2") ? 1 : 0;
  if (suffix == "b1.weight") return is_old_glora(m) ? -1 : 0;
  if (suffix == "b2.weight") return is_old_glora(m) ? 0 : -1;
  if (suffix == "weight") return acts_on_input(m) ? -1 : (t.dim() > 1 && t.size(0) == 1 ? 1 : 0);
  if (suffix == "ia3_l") return t.size(0) == 1 ? -1 : 0;
  if (suffix == "lora_magnitude_vector") return t.dim() > 1 && t.size(0) == 1 ? 1 : 0;
  if (suffix != "dora_scale") return -1;
  check(t.size(0) == t.numel(), ErrorKind::unsupported,
        "{}: dora_scale has a magnitude for each input, of q, k and v together; it cannot be given to them one by one",
        label);
  return 0;
}

bool is_lokr(const Module& m) { return m.contains("lokr_w1") || m.contains("lokr_w1_a"); }

// [from, to) of n rows.
std::pair<int64_t, int64_t> rows(int64_t n, Share share, const std::string& label) {
  check(n % share.of == 0, ErrorKind::bad_shape, "{}: {} rows are not {} parts of one size", label, n, share.of);
  return {n / share.of * share.begin, n / share.of * share.end};
}

// Rotations are limited by a norm over all blocks, which the parts no longer see: the limit is applied here.
void settle_oft(Module& m, const std::string& label) {
  auto blocks = find(m, "oft_blocks");
  if (!blocks) return;
  check(blocks->dim() == 3, ErrorKind::unsupported,
        "{}: a butterfly rotation (BOFT) of q, k and v together cannot be given to them one by one", label);
  auto limit = alpha_of(m, 0) * double(rows_of(m));
  auto wide = blocks->to(at::kFloat);
  auto norm = (wide - wide.transpose(1, 2)).norm().item<double>();
  if (limit > 0 && norm > limit) m["oft_blocks"] = wide * (limit / norm);
  m["alpha"] = at::scalar_tensor(0.0);  // no limit any more
}

bool same(const Tensor& a, const Tensor& b) {
  if (a.sizes() != b.sizes() || a.scalar_type() != b.scalar_type()) return false;
  return (a.data_ptr() == b.data_ptr() && a.strides() == b.strides()) || at::equal(a, b);
}

}  // namespace

int64_t rows_of(const Module& m) {
  auto size = [&](const char* suffix, int dim) { return m.contains(suffix) ? m.at(suffix).size(dim) : 0; };
  if (auto n = size("lora_B.weight", 0)) return n;
  if (auto n = size("diff", 0)) return n;
  if (m.contains("hada_w1_a")) return size("hada_w1_a", m.contains("hada_t1") ? 1 : 0);
  if (is_lokr(m)) {
    auto left = m.contains("lokr_w1") ? size("lokr_w1", 0) : size("lokr_w1_a", 0);
    auto right = m.contains("lokr_w2") ? size("lokr_w2", 0) : size("lokr_w2_a", m.contains("lokr_t2") ? 1 : 0);
    return left * right;
  }
  if (m.contains("b1.weight")) return is_old_glora(m) ? size("b2.weight", 0) : size("b1.weight", 0);
  if (auto n = size("oft_blocks", 0)) return m.at("oft_blocks").dim() == 3 ? n * size("oft_blocks", 1) : 0;
  if (m.contains("weight") && !acts_on_input(m)) return m.at("weight").numel();
  return size("diff_b", 0);
}

int64_t columns_of(const Module& m) {
  auto columns = [&](const char* suffix) {
    return m.contains(suffix) ? m.at(suffix).numel() / m.at(suffix).size(0) : 0;
  };
  for (const char* suffix : {"lora_A.weight", "diff", "hada_w1_b"})
    if (auto n = columns(suffix)) return n;
  if (m.contains("b1.weight")) return is_old_glora(m) ? columns("a1.weight") : columns("a2.weight");
  if (acts_on_input(m)) return m.at("weight").numel();
  if (!is_lokr(m)) return 0;
  auto left = m.contains("lokr_w1") ? columns("lokr_w1") : columns("lokr_w1_b");
  return left * (m.contains("lokr_w2") ? columns("lokr_w2") : columns("lokr_w2_b"));
}

Module part_of(const Module& whole, Share share, const std::string& label) {
  auto source = whole;
  settle_oft(source, label);
  Module part;
  for (const auto& [suffix, tensor] : source) {
    auto dim = row_dim(source, suffix, tensor, label);
    bool cannot_be_cut = suffix.starts_with("lokr_w1") && dim == 0 && tensor.size(0) % share.of != 0;
    if (dim < 0 || cannot_be_cut) {
      part[suffix] = tensor;
      continue;
    }
    auto [from, to] = rows(tensor.size(dim), share, label);
    part[suffix] = tensor.slice(dim, from, to);
  }
  if (auto* w1 = is_lokr(source) ? &source.at(source.contains("lokr_w1") ? "lokr_w1" : "lokr_w1_a") : nullptr;
      w1 && w1->size(0) % share.of != 0) {
    auto [from, to] = rows(rows_of(source), share, label);
    part["lokr_rows"] = at::tensor({from, to}, at::kLong);
  }
  return part;
}

Module with_halves_swapped(const Module& module, const std::string& label) {
  auto source = module;
  settle_oft(source, label);
  Module swapped;
  for (const auto& [suffix, tensor] : source) {
    auto dim = row_dim(source, suffix, tensor, label);
    if (dim < 0) {
      swapped[suffix] = tensor;
      continue;
    }
    auto n = tensor.size(dim);
    check(n % 2 == 0, ErrorKind::unsupported, "{}: {} has {} rows, of which no half is the layer's scale", label,
          suffix, n);
    swapped[suffix] = at::cat({tensor.slice(dim, n / 2), tensor.slice(dim, 0, n / 2)}, dim);
  }
  return swapped;
}

bool same_inputs(const std::vector<Module>& parts) {
  const auto& first = parts.front();
  return std::all_of(parts.begin() + 1, parts.end(), [&](auto& part) {
    return std::all_of(first.begin(), first.end(), [&](auto& entry) {
      const auto& [suffix, tensor] = entry;
      auto* other = find(part, suffix);
      if (suffix == "lokr_rows") return other != nullptr;
      return other &&
             (row_dim(first, suffix, tensor, "") >= 0 && !first.contains("lokr_rows") ? true : same(tensor, *other));
    });
  });
}

namespace {

// One tensor of all parts along `dim`, zeros where a share is missing.
Tensor gathered(const std::vector<std::pair<Share, Module>>& parts, const std::string& suffix, int dim) {
  std::vector<Tensor> all;
  int done = 0, of = parts.front().first.of;
  auto zeros = [&](int shares, const Tensor& like, int like_shares) {
    auto shape = like.sizes().vec();
    shape[dim] = shape[dim] / like_shares * shares;
    return at::zeros(shape, like.options());
  };
  const Tensor* last = nullptr;
  int last_shares = 1;
  for (const auto& [share, module] : parts) {
    last = &module.at(suffix);
    last_shares = share.end - share.begin;
    if (share.begin > done) all.push_back(zeros(share.begin - done, *last, last_shares));
    all.push_back(*last);
    done = share.end;
  }
  if (done < of) all.push_back(zeros(of - done, *last, last_shares));
  return all.size() == 1 ? all.front() : at::cat(all, dim);
}

// Different factors stand in blocks: [A1; A2; …] and diag(B1, B2, …), each at its own strength.
Module in_blocks(const std::vector<std::pair<Share, Module>>& parts, const std::string& label) {
  std::vector<Tensor> downs;
  std::vector<double> scales;
  int64_t rank = 0;
  for (const auto& [share, module] : parts) {
    for (const auto& [suffix, tensor] : module)
      check(suffix == "lora_A.weight" || suffix == "lora_B.weight" || suffix == "alpha", ErrorKind::unsupported,
            "{}: {} of the layers that go together here differ in what they make of their inputs", label, suffix);
    auto& A = module.at("lora_A.weight");
    downs.push_back(A);
    rank += A.size(0);
    scales.push_back(alpha_of(module, double(A.size(0))) / double(A.size(0)));
  }
  bool one_scale = std::all_of(scales.begin(), scales.end(), [&](double s) { return s == scales.front(); });
  std::vector<std::pair<Share, Module>> ups;
  int64_t column = 0;
  for (size_t i = 0; i < parts.size(); ++i) {
    auto B = parts[i].second.at("lora_B.weight");
    if (!one_scale) B = (B.to(at::kFloat) * scales[i]).to(B.scalar_type());
    auto flat = B.flatten(1);
    auto wide = at::zeros({flat.size(0), rank}, flat.options());
    wide.slice(1, column, column + flat.size(1)).copy_(flat);
    column += flat.size(1);
    ups.push_back({parts[i].first, {{"up", wide}}});
  }
  return {{"lora_A.weight", at::cat(downs, 0)},
          {"lora_B.weight", gathered(ups, "up", 0)},
          {"alpha", at::scalar_tensor((one_scale ? scales.front() : 1.0) * double(rank))}};
}

}  // namespace

Module joined(const std::vector<std::pair<Share, Module>>& parts, bool same_inputs, const std::string& label) {
  const auto& first = parts.front().second;
  bool whole = false;
  int covered = 0;
  for (const auto& [share, module] : parts) {
    covered += share.end - share.begin;
    check(std::equal(module.begin(), module.end(), first.begin(), first.end(),
                     [](auto& a, auto& b) { return a.first == b.first || a.first == "alpha" || b.first == "alpha"; }),
          ErrorKind::unsupported, "{}: the layers that go together here are of different kinds", label);
  }
  whole = covered == parts.front().first.of;
  if (!same_inputs) return in_blocks(parts, label);
  Module module;
  for (const auto& [suffix, tensor] : first) {
    if (suffix == "lokr_rows") {
      check(whole, ErrorKind::unsupported, "{}: some of the layers that a Kronecker product is of are missing", label);
      continue;
    }
    auto dim = first.contains("lokr_rows") && suffix.starts_with("lokr_") ? -1 : row_dim(first, suffix, tensor, label);
    bool zero_means_none = suffix != "dora_scale" && suffix != "lora_magnitude_vector" && suffix != "rescale";
    check(dim < 0 || whole || zero_means_none, ErrorKind::unsupported,
          "{}: some of the layers that go together here have no {}", label, suffix);
    module[suffix] = dim < 0 ? tensor : gathered(parts, suffix, dim);
  }
  return module;
}

}  // namespace lora
