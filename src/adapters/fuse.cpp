#include "adapters/fuse.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>

#include <atomic>
#include <mutex>

#include "adapters/add_product.h"
#include "io/mapped_file.h"

namespace lora {

namespace {

// Rows of W that one core rebuilds at a time.
constexpr int64_t kBlockElements = 1 << 18;

// W and its base as matrices [out, in·kh·kw], and what is added: the factors of all ingredients stacked, with their
// strengths in B; undefined where there are none.
struct Target {
  Tensor weight, base;
  bool is_first_write = false;
  Tensor B, A;  // [out, R], [R, in·kh·kw] in the dtype that sums are made in; on the weight's device
};

Tensor base_of(const Site& site, const BaseWeights& known) {
  if (site.weight_source.defined()) return site.weight_source;
  if (auto mapped = pristine(site.weight); mapped.defined()) return mapped;
  auto copy = known.copies.find(&site);
  return copy != known.copies.end() ? copy->second : site.weight;  // never written: it is its own base
}

Tensor matrix(const Tensor& t) { return t.flatten(1); }

// What sums are made in: halves are rounded once, at the end.
Dtype wide(const Tensor& weight) { return weight.scalar_type() == at::kDouble ? at::kDouble : at::kFloat; }

Target target(const Rebuild& wanted, const BaseWeights& known) {
  auto base = wanted.is_base ? wanted.site->weight : base_of(*wanted.site, known);
  Target t{.weight = matrix(wanted.site->weight), .base = matrix(base)};
  t.is_first_write = !known.written.contains(wanted.site);
  std::vector<Tensor> up, down;
  for (const auto& [delta, strength] : wanted.ingredients) {
    auto* factors = delta->low_rank();
    up.push_back(matrix(factors->B).to(t.weight.device(), wide(t.weight)) * (strength * factors->scale));
    down.push_back(matrix(factors->A).to(t.weight.device(), wide(t.weight)));
  }
  if (up.empty()) return t;
  t.B = (up.size() == 1 ? up[0] : at::cat(up, 1)).contiguous();
  t.A = (down.size() == 1 ? down[0] : at::cat(down, 0)).contiguous();
  return t;
}

// to ← from + B A for the rows from `begin` to `end`; `from` has the dtype of `to`.
void add_rows(const Target& t, const Tensor& to, const Tensor& from, int64_t begin, int64_t end) {
  auto B = t.B.slice(0, begin, end);
  auto dtype = to.scalar_type();
  if (to.is_cpu() && has_add_product(dtype) && to.is_contiguous() && from.is_contiguous())
    return add_product(dtype, to.mutable_data_ptr(), from.const_data_ptr(), B.const_data_ptr<float>(),
                       t.A.const_data_ptr<float>(), end - begin, t.A.size(1), t.A.size(0));
  to.copy_(at::addmm(from.to(B.scalar_type()), B, t.A));
}

// The weight as it is after a load, which is what is fused into: the file's values in the model's dtype.
Tensor base_rows(const Target& t, int64_t begin, int64_t end) {
  return t.base.slice(0, begin, end).to(t.weight.device(), t.weight.scalar_type());
}

void write_rows(const Target& t, int64_t begin, int64_t end) {
  auto rows = t.weight.slice(0, begin, end);
  if (t.is_first_write) make_writable(rows);
  if (t.B.defined())
    add_rows(t, rows, base_rows(t, begin, end), begin, end);
  else
    rows.copy_(t.base.slice(0, begin, end));
}

bool is_finite(const Target& t, int64_t begin, int64_t end) {
  auto rows = base_rows(t, begin, end);
  if (t.B.defined()) {
    auto result = at::empty_like(rows);
    add_rows(t, result, rows, begin, end);
    rows = result;
  }
  return at::isfinite(rows).all().item<bool>();
}

struct Task {
  const Target* target;
  int64_t begin, end;
};

std::vector<Task> tasks(const std::vector<Target>& targets) {
  std::vector<Task> all;
  for (const auto& t : targets) {
    auto rows = t.weight.size(0);
    auto step =
        t.weight.is_cuda() ? rows : std::max<int64_t>(8, kBlockElements / std::max<int64_t>(1, t.weight.size(1)));
    for (int64_t begin = 0; begin < rows; begin += step) all.push_back({&t, begin, std::min(begin + step, rows)});
  }
  return all;
}

std::vector<Target> all_targets(const std::vector<Rebuild>& work, const BaseWeights& known) {
  std::vector<Target> targets(work.size());
  at::parallel_for(0, int64_t(work.size()), 8, [&](int64_t begin, int64_t end) {
    c10::NoGradGuard no_grad;
    for (auto i = begin; i < end; ++i) targets[i] = target(work[i], known);
  });
  return targets;
}

// Blocks are independent: each core takes the next one until none is left, and multiplies alone.
void for_each_block(const std::vector<Target>& targets, const std::function<void(const Task&)>& work) {
  auto all = tasks(targets);
  if (!targets.empty() && targets.front().weight.is_cuda()) {
    for (const auto& task : all) work(task);
    return;
  }
  std::atomic<size_t> next = 0;
  at::parallel_for(0, at::get_num_threads(), 1, [&](int64_t, int64_t) {
    c10::NoGradGuard no_grad;
    for (size_t i; (i = next++) < all.size();) work(all[i]);
  });
}

}  // namespace

void rebuild(const std::vector<Rebuild>& work, BaseWeights& known) {
  c10::NoGradGuard no_grad;
  for (const auto& wanted : work)
    if (!wanted.ingredients.empty() && base_of(*wanted.site, known).data_ptr() == wanted.site->weight.data_ptr())
      known.copies.emplace(wanted.site, wanted.site->weight.clone());

  auto targets = all_targets(work, known);
  for_each_block(targets, [](const Task& task) { write_rows(*task.target, task.begin, task.end); });

  for (const auto& wanted : work) {
    known.written.insert(wanted.site);
    if (wanted.ingredients.empty()) known.copies.erase(wanted.site);
  }
}

std::vector<std::string> non_finite(const std::vector<Rebuild>& work, const BaseWeights& known) {
  c10::NoGradGuard no_grad;
  auto targets = all_targets(work, known);
  std::mutex mutex;
  std::set<const Target*> bad;
  for_each_block(targets, [&](const Task& task) {
    if (is_finite(*task.target, task.begin, task.end)) return;
    std::lock_guard lock(mutex);
    bad.insert(task.target);
  });
  std::vector<std::string> paths;
  for (size_t i = 0; i < work.size(); ++i)
    if (bad.contains(&targets[i])) paths.push_back(work[i].site->path);
  return paths;
}

}  // namespace lora
