#include "adapters/fuse.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>

#include <mutex>

#include "io/mapped_file.h"

namespace lora {

namespace {

// Rows of W that are rebuilt together: small enough to stay in a core's cache between restoring and multiplying.
constexpr int64_t kBlockElements = 1 << 17;

// W and its base as matrices [out, in·kh·kw].
struct Target {
  Tensor weight, base;
  struct Term {
    Tensor A, B;  // [r, in·kh·kw] wide, [out, r]; on the weight's device
    double scale;
  };
  std::vector<Term> terms;
};

Tensor base_of(const Site& site, const BaseCopies& copies) {
  if (site.weight_source.defined()) return site.weight_source;
  if (auto mapped = pristine(site.weight); mapped.defined()) return mapped;
  auto copy = copies.find(&site);
  return copy != copies.end() ? copy->second : site.weight;  // never written: it is its own base
}

Tensor matrix(const Tensor& t) { return t.flatten(1); }

// What sums are made in: halves are rounded once, at the end.
Dtype wide(const Tensor& weight) { return weight.scalar_type() == at::kDouble ? at::kDouble : at::kFloat; }

Target target(const Rebuild& wanted, const BaseCopies& copies) {
  auto base = wanted.is_base ? wanted.site->weight : base_of(*wanted.site, copies);
  Target t{matrix(wanted.site->weight), matrix(base), {}};
  for (const auto& [delta, strength] : wanted.ingredients) {
    auto* factors = delta->low_rank();
    t.terms.push_back({matrix(factors->A).to(t.weight.device(), wide(t.weight)),
                       matrix(factors->B).to(t.weight.device()), strength * factors->scale});
  }
  return t;
}

// The weight as it is after a load, which is what is fused into: the file's values in the model's dtype.
Tensor wide_base(const Target& t, int64_t begin, int64_t end) {
  auto base = t.base.slice(0, begin, end).to(t.weight.device(), t.weight.scalar_type());
  return base.to(wide(t.weight), /*non_blocking=*/false, /*copy=*/true);
}

// One block of rows of the result, wide.
Tensor block(const Target& t, int64_t begin, int64_t end) {
  auto rows = wide_base(t, begin, end);
  for (const auto& [A, B, scale] : t.terms) rows.addmm_(B.slice(0, begin, end).to(A.scalar_type()), A, 1, scale);
  return rows;
}

void write_block(const Target& t, int64_t begin, int64_t end) {
  auto rows = t.weight.slice(0, begin, end);
  auto base = t.base.slice(0, begin, end);
  if (rows.scalar_type() != wide(t.weight) && !t.terms.empty()) {
    rows.copy_(block(t, begin, end));
    return;
  }
  if (rows.data_ptr() != base.data_ptr()) rows.copy_(base);
  for (const auto& [A, B, scale] : t.terms) rows.addmm_(B.slice(0, begin, end), A, 1, scale);
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
        t.weight.is_cuda() ? rows : std::max<int64_t>(1, kBlockElements / std::max<int64_t>(1, t.weight.size(1)));
    for (int64_t begin = 0; begin < rows; begin += step) all.push_back({&t, begin, std::min(begin + step, rows)});
  }
  return all;
}

// Blocks are independent; each core takes its share of them, and multiplies alone.
void for_each_block(const std::vector<Target>& targets, const std::function<void(const Task&)>& work) {
  auto all = tasks(targets);
  if (!targets.empty() && targets.front().weight.is_cuda()) {
    for (const auto& task : all) work(task);
    return;
  }
  at::parallel_for(0, int64_t(all.size()), 1, [&](int64_t begin, int64_t end) {
    c10::NoGradGuard no_grad;
    for (auto i = begin; i < end; ++i) work(all[i]);
  });
}

}  // namespace

void rebuild(const std::vector<Rebuild>& work, BaseCopies& copies) {
  c10::NoGradGuard no_grad;
  for (const auto& wanted : work)
    if (!wanted.ingredients.empty() && base_of(*wanted.site, copies).data_ptr() == wanted.site->weight.data_ptr())
      copies.emplace(wanted.site, wanted.site->weight.clone());

  std::vector<Target> targets;
  for (const auto& wanted : work) targets.push_back(target(wanted, copies));
  for_each_block(targets, [](const Task& task) { write_block(*task.target, task.begin, task.end); });

  for (const auto& wanted : work)
    if (wanted.ingredients.empty()) copies.erase(wanted.site);
}

std::vector<std::string> non_finite(const std::vector<Rebuild>& work, const BaseCopies& copies) {
  c10::NoGradGuard no_grad;
  std::vector<Target> targets;
  for (const auto& wanted : work) targets.push_back(target(wanted, copies));
  std::mutex mutex;
  std::set<const Target*> bad;
  for_each_block(targets, [&](const Task& task) {
    auto rows = block(*task.target, task.begin, task.end).to(task.target->weight.scalar_type());
    if (at::isfinite(rows).all().item<bool>()) return;
    std::lock_guard lock(mutex);
    bad.insert(task.target);
  });
  std::vector<std::string> paths;
  for (size_t i = 0; i < work.size(); ++i)
    if (bad.contains(&targets[i])) paths.push_back(work[i].site->path);
  return paths;
}

}  // namespace lora
