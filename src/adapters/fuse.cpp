#include "adapters/fuse.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <set>

#include "adapters/add_product.h"
#include "io/mapped_file.h"

namespace lora {

namespace {

// Rows of W that one core rebuilds at a time.
constexpr int64_t kBlockElements = 1 << 18;
// What differences of whole weights may take while they wait to be written, in numbers of four bytes.
constexpr int64_t kWaveElements = 1 << 26;

// W and its base as matrices [out, in·kh·kw] (a norm's [n, 1]), and what becomes of the base:
//   W ← gain ⊙ base ⊙ input_gain + change + B A
// with the factors of all ingredients stacked, their strengths in B. What is undefined is not there.
struct Target {
  Tensor weight, base;
  bool is_first_write = false;
  Tensor B, A;        // [out, R], [R, in·kh·kw] in the dtype that sums are made in; on the weight's device
  Tensor gain;        // [out, 1], float32
  Tensor input_gain;  // [1, in·kh·kw], float32
  Tensor change;      // as W, float32
  Tensor bias;        // what the site's bias is to be, in its dtype; undefined where it stays as it is
};

Tensor file_or_copy(const Tensor& now, const Tensor& source, const Tensor* copy) {
  if (!now.defined()) return now;
  if (source.defined()) return source;
  if (auto mapped = pristine(now); mapped.defined()) return mapped;
  return copy && copy->defined() ? *copy : now;  // never written: it is its own base
}

Tensor matrix(const Tensor& t) { return t.dim() == 1 ? t.unsqueeze(1) : t.flatten(1); }

// What sums are made in: halves are rounded once, at the end.
Dtype wide(const Tensor& weight) { return weight.scalar_type() == at::kDouble ? at::kDouble : at::kFloat; }

// An input channel's factor for each column of the matrix.
Tensor columns(const Tensor& input_gain, const Tensor& weight) {
  auto positions = weight[0].numel() / input_gain.size(0);
  return input_gain.repeat_interleave(positions).unsqueeze(0);
}

Target target(const Rebuild& wanted, const BaseWeights& known) {
  auto& site = *wanted.site;
  auto base = wanted.is_base ? site.weight : base_weight(site, known);
  Target t{.weight = matrix(site.weight), .base = matrix(base)};
  t.is_first_write = !known.written.contains(&site);
  auto device = t.weight.device();
  auto add = [&](Tensor& sum, const Tensor& term) { sum = sum.defined() ? sum + term : term; };

  std::vector<Tensor> up, down;
  Tensor bias;
  for (const auto& [delta, strength] : wanted.ingredients) {
    auto effect = delta->effect(strength, delta->is_dense() ? base.to(device, site.weight.scalar_type()) : base);
    if (effect.A.defined()) {
      auto left = effect.B, right = effect.A;
      if (site.kind == SiteKind::embedding) left = effect.A.t(), right = effect.B.t();
      up.push_back(matrix(left).to(device, wide(t.weight)) * effect.scale);
      down.push_back(matrix(right).to(device, wide(t.weight)));
    }
    // Each changes the base, so that gains add up as what they add to 1.
    if (effect.gain.defined()) add(t.gain, (effect.gain - 1).unsqueeze(1).to(device));
    if (effect.input_gain.defined()) add(t.input_gain, columns((effect.input_gain - 1).to(device), site.weight));
    if (effect.weight.defined()) add(t.change, matrix(effect.weight).to(device, at::kFloat));
    if (effect.bias.defined()) add(bias, effect.bias.to(device, at::kFloat));
  }
  if (site.bias.defined() && (bias.defined() || known.written.contains(&site))) {
    auto own = base_bias(site, known).to(device, site.bias.scalar_type());
    t.bias = bias.defined() ? (own.to(at::kFloat) + bias).to(own.scalar_type()) : own;
  }
  if (up.empty()) return t;
  t.B = (up.size() == 1 ? up[0] : at::cat(up, 1)).contiguous();
  t.A = (down.size() == 1 ? down[0] : at::cat(down, 0)).contiguous();
  return t;
}

// The weight as it is after a load, which is what is fused into: the file's values in the model's dtype.
Tensor base_rows(const Target& t, int64_t begin, int64_t end) {
  return t.base.slice(0, begin, end).to(t.weight.device(), t.weight.scalar_type());
}

// What the rows from `begin` to `end` are to be, into `to`.
void make_rows(const Target& t, const Tensor& to, int64_t begin, int64_t end) {
  auto from = base_rows(t, begin, end);
  auto dtype = to.scalar_type();
  if (t.gain.defined() || t.input_gain.defined() || t.change.defined()) {
    auto base = from.to(wide(to));
    auto sum = base;
    if (t.gain.defined()) sum = sum + base * t.gain.slice(0, begin, end);
    if (t.input_gain.defined()) sum = sum + base * t.input_gain;
    if (t.change.defined()) sum = sum + t.change.slice(0, begin, end);
    if (t.B.defined()) sum = at::addmm(sum, t.B.slice(0, begin, end), t.A);
    to.copy_(sum);
  } else if (!t.B.defined()) {
    to.copy_(from);
  } else if (to.is_cpu() && has_add_product(dtype) && to.is_contiguous() && from.is_contiguous()) {
    add_product(dtype, to.mutable_data_ptr(), from.const_data_ptr(), t.B.slice(0, begin, end).const_data_ptr<float>(),
                t.A.const_data_ptr<float>(), end - begin, t.A.size(1), t.A.size(0));
  } else {
    to.copy_(at::addmm(from.to(t.B.scalar_type()), t.B.slice(0, begin, end), t.A));
  }
}

void write_rows(const Target& t, int64_t begin, int64_t end) {
  auto rows = t.weight.slice(0, begin, end);
  if (t.is_first_write) make_writable(rows);
  make_rows(t, rows, begin, end);
}

bool is_finite(const Target& t, int64_t begin, int64_t end) {
  auto rows = at::empty_like(t.weight.slice(0, begin, end));
  make_rows(t, rows, begin, end);
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

// The targets of work[begin] up to work[end].
std::vector<Target> targets_of(const std::vector<Rebuild>& work, size_t begin, size_t end, const BaseWeights& known) {
  std::vector<Target> targets(end - begin);
  at::parallel_for(0, int64_t(targets.size()), 8, [&](int64_t first, int64_t last) {
    c10::NoGradGuard no_grad;
    for (auto i = first; i < last; ++i) targets[i] = target(work[begin + i], known);
  });
  return targets;
}

// The first of the work after `begin` that has to wait, because what is before it takes all the memory there is for
// differences of whole weights. Factors of low rank take none.
size_t end_of_wave(const std::vector<Rebuild>& work, size_t begin) {
  int64_t elements = 0;
  for (auto i = begin; i < work.size(); ++i) {
    for (const auto& ingredient : work[i].ingredients)
      if (ingredient.delta->is_dense()) elements += work[i].site->weight.numel();
    if (elements > kWaveElements && i > begin) return i;
  }
  return work.size();
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

Tensor base_weight(const Site& site, const BaseWeights& known) {
  auto copy = known.copies.find(&site);
  return file_or_copy(site.weight, site.weight_source, copy == known.copies.end() ? nullptr : &copy->second.first);
}

Tensor base_bias(const Site& site, const BaseWeights& known) {
  auto copy = known.copies.find(&site);
  return file_or_copy(site.bias, site.bias_source, copy == known.copies.end() ? nullptr : &copy->second.second);
}

void rebuild(const std::vector<Rebuild>& work, BaseWeights& known) {
  c10::NoGradGuard no_grad;
  for (const auto& wanted : work) {
    auto& site = *wanted.site;
    if (wanted.ingredients.empty() || known.copies.contains(&site)) continue;
    bool own_weight = base_weight(site, known).data_ptr() == site.weight.data_ptr();
    bool own_bias = site.bias.defined() && base_bias(site, known).data_ptr() == site.bias.data_ptr();
    if (own_weight || own_bias)
      known.copies[&site] = {own_weight ? site.weight.clone() : Tensor(), own_bias ? site.bias.clone() : Tensor()};
  }

  for (size_t begin = 0, end; begin < work.size(); begin = end) {
    end = end_of_wave(work, begin);
    auto targets = targets_of(work, begin, end, known);
    for_each_block(targets, [](const Task& task) { write_rows(*task.target, task.begin, task.end); });
    for (auto i = begin; i < end; ++i) {
      const auto& bias = targets[i - begin].bias;
      if (bias.defined()) work[i].site->bias.copy_(bias);
      known.written.insert(work[i].site);
      if (work[i].ingredients.empty()) known.copies.erase(work[i].site);
    }
  }
}

std::vector<std::string> non_finite(const std::vector<Rebuild>& work, const BaseWeights& known) {
  c10::NoGradGuard no_grad;
  std::vector<std::string> paths;
  for (size_t begin = 0, end; begin < work.size(); begin = end) {
    end = end_of_wave(work, begin);
    auto targets = targets_of(work, begin, end, known);
    std::mutex mutex;
    std::set<const Target*> bad;
    for_each_block(targets, [&](const Task& task) {
      if (is_finite(*task.target, task.begin, task.end)) return;
      std::lock_guard lock(mutex);
      bad.insert(task.target);
    });
    for (const auto& t : targets)
      if (bad.contains(&t) || (t.bias.defined() && !at::isfinite(t.bias).all().item<bool>()))
        paths.push_back(work[begin + size_t(&t - targets.data())].site->path);
  }
  return paths;
}

std::vector<std::string> without_bias(const std::vector<Rebuild>& work) {
  std::vector<std::string> paths;
  for (const auto& wanted : work)
    if (!wanted.site->bias.defined() &&
        std::any_of(wanted.ingredients.begin(), wanted.ingredients.end(), [](auto& i) { return i.delta->has_bias(); }))
      paths.push_back(wanted.site->path);
  return paths;
}

}  // namespace lora
