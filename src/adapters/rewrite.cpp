#include "adapters/rewrite.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <atomic>
#include <functional>

#include "io/mapped_file.h"
#include "nn/parallel.h"
#include "nn/weights.h"

namespace lora {

namespace {

// The elements of W in the rows that a core rebuilds at a time.
constexpr int64_t kBlockElements = 1 << 18;
// The largest number of elements, of four bytes each, in all dense effects of one wave.
constexpr int64_t kWaveElements = 1 << 26;

Tensor file_or_copy(const Tensor& now, const Tensor& source, const Tensor* copy) {
  if (!now.defined()) return now;
  if (source.defined()) return source;
  if (auto mapped = pristine(now); mapped.defined()) return mapped;
  return copy && copy->defined() ? *copy : now;  // never written, so it is the base
}

// The base weight and bias in the dtype of the file.
Tensor stored_weight(const Site& site, const BaseWeights& known) {
  auto copy = known.copies.find(&site);
  return file_or_copy(site.weight, site.weight_source, copy == known.copies.end() ? nullptr : &copy->second.first);
}

Tensor stored_bias(const Site& site, const BaseWeights& known) {
  auto copy = known.copies.find(&site);
  return file_or_copy(site.bias, site.bias_source, copy == known.copies.end() ? nullptr : &copy->second.second);
}

bool is_dense(const Recipe& recipe) {
  return std::any_of(recipe.begin(), recipe.end(), [](auto& i) { return i.delta->is_dense(); });
}

// The end of the wave that starts at `begin`.
size_t end_of_wave(const std::vector<Rebuild>& work, size_t begin) {
  int64_t elements = 0;
  for (auto i = begin; i < work.size(); ++i) {
    for (const auto& ingredient : work[i].wanted)
      if (ingredient.delta->is_dense()) elements += work[i].site->weight.numel();
    if (elements > kWaveElements && i > begin) return i;
  }
  return work.size();
}

}  // namespace

Tensor BaseWeights::weight(const Site& site) const {
  return stored_weight(site, *this).to(site.weight.device(), site.weight.scalar_type());
}

Tensor BaseWeights::bias(const Site& site) const {
  auto bias = stored_bias(site, *this);
  return bias.defined() ? bias.to(site.weight.device(), site.weight.scalar_type()) : bias;
}

// ---- Planning -------------------------------------------------------------------------------------------------------

namespace {

// One site: weight ← from + sum. Matrices [out, columns].
struct Target {
  Tensor weight, from;
  EffectSum sum;
  Tensor bias;  // the new bias, in the dtype of the site's bias; undefined if it does not change
  int64_t bias_not_finite = 0;
  bool bias_changes = false;
  Tensor own_bias;
  bool is_first_write = false;

  void write_rows(int64_t begin, int64_t end, const RowSums& rows, ChangeSums& sums) const {
    if (is_first_write) make_writable(weight.slice(0, begin, end));
    add_rows(sum, from, from, weight, begin, end, rows, &sums);
  }
  // The same into memory of its own.
  void measure_rows(int64_t begin, int64_t end, const RowSums& rows, ChangeSums& sums) const {
    auto result = at::empty_like(weight.slice(0, begin, end), at::MemoryFormat::Contiguous);
    auto part = sum;
    for (auto* by_row : {&part.B, &part.gain, &part.weight})
      if (by_row->defined()) *by_row = by_row->slice(0, begin, end);
    auto start = from.slice(0, begin, end);
    add_rows(part, start, start, result, 0, result.size(0), rows, &sums);
  }
  bool changes() const { return sum.changes_weight() || sum.bias.defined(); }
};

}  // namespace

// Several sites, with all the memory that writing them needs.
struct RewriteBatch {
  struct Task {
    const Target* target;
    int64_t begin, end;
    ChangeSums sums;
  };
  std::vector<Target> targets;
  std::vector<Task> tasks;
  std::vector<ChangeSums> sums;  // by target, after add_up()
  std::vector<RowSums> rows;     // by thread

  void plan();
  bool on_gpu() const { return !targets.empty() && targets.front().weight.is_cuda(); }
  // Calls work(task, rows) for each task.
  template <class Work>
  void each(const Work& work);
  // Writes the first `count` targets.
  void write(size_t count);
  void measure();
  // Sums up the tasks of each target. It does not allocate memory.
  void add_up();
};

void RewriteBatch::plan() {
  int64_t largest = 0;
  sums.resize(targets.size());
  for (const auto& t : targets) {
    auto count = t.weight.size(0), columns = t.weight.size(1);
    auto step = on_gpu() ? count : std::max<int64_t>(8, kBlockElements / std::max<int64_t>(1, columns));
    for (int64_t begin = 0; begin < count; begin += step)
      tasks.push_back({&t, begin, std::min(begin + step, count), {}});
    if (needs_row_sums(t.sum, t.weight)) largest = std::max(largest, std::min(step, count) * columns);
  }
  if (targets.empty()) return;
  // If one weight is float64, the sums of all sites have room for float64.
  bool wide =
      std::any_of(targets.begin(), targets.end(), [](auto& t) { return t.weight.scalar_type() == at::kDouble; });
  auto like = targets.front().weight.new_empty({0}, at::TensorOptions(wide ? at::kDouble : at::kFloat));
  rows.resize(on_gpu() ? 1 : size_t(at::get_num_threads()));
  if (largest > 0)
    for (auto& r : rows) r = RowSums::of(largest, like);
}

// Blocks are independent. Each thread takes the next block until all are done, and computes on one core.
template <class Work>
void RewriteBatch::each(const Work& work) {
  if (on_gpu()) {
    for (auto& task : tasks) work(task, rows.front());
    return;
  }
  std::atomic<size_t> next = 0;
  parallel_ranges(int64_t(rows.size()), 1, [&](int64_t first, int64_t last) {
    c10::NoGradGuard no_grad;
    for (auto thread = first; thread < last; ++thread)
      for (size_t i; (i = next++) < tasks.size();) work(tasks[i], rows[size_t(thread)]);
  });
}

void RewriteBatch::write(size_t count) {
  auto* end = targets.data() + count;
  each([&](Task& task, const RowSums& memory) {
    if (task.target < end) task.target->write_rows(task.begin, task.end, memory, task.sums);
  });
  for (size_t i = 0; i < count; ++i)
    if (const auto& t = targets[i]; t.bias.defined()) t.own_bias.copy_(t.bias);
}

void RewriteBatch::measure() {
  each([](Task& task, const RowSums& memory) { task.target->measure_rows(task.begin, task.end, memory, task.sums); });
}

void RewriteBatch::add_up() {
  for (const auto& task : tasks) sums[size_t(task.target - targets.data())] += task.sums;
  for (size_t i = 0; i < targets.size(); ++i) {
    sums[i].not_finite += targets[i].bias_not_finite;
    sums[i].changed |= targets[i].bias_changes;
  }
}

namespace {

Target target(const Site& site, const Tensor& base, const Recipe& recipe, const BaseWeights& known) {
  Target t{.weight = as_matrix(site.weight), .from = as_matrix(base), .sum = {}, .bias = {}, .own_bias = site.bias};
  t.is_first_write = !known.written.contains(&site);
  const auto device = site.weight.device();
  std::vector<Effect> effects;
  for (const auto& [delta, strength] : recipe)
    effects.push_back(delta->effect(strength, delta->is_dense() ? base.to(device, site.weight.scalar_type()) : base));
  t.sum = sum_of(effects, site.kind, site.weight);
  if (!site.bias.defined() || (!t.sum.bias.defined() && t.is_first_write)) return t;
  auto own = stored_bias(site, known).to(device, site.bias.scalar_type());
  t.bias = t.sum.bias.defined() ? (own.to(t.sum.bias.scalar_type()) + t.sum.bias).to(own.scalar_type()) : own;
  t.bias_not_finite = count_not_finite(t.bias);
  t.bias_changes = !at::equal(t.bias, own);
  return t;
}

// A target that restores the present weight of a site.
Target as_it_is(const Site& site) {
  return {.weight = as_matrix(site.weight), .from = as_matrix(site.weight).clone(), .own_bias = site.bias};
}

std::unique_ptr<RewriteBatch> batch(const std::vector<Rebuild>& work, size_t begin, size_t end,
                                    const BaseWeights& known) {
  auto batch = std::make_unique<RewriteBatch>();
  batch->targets.resize(end - begin);
  parallel_ranges(int64_t(end - begin), 8, [&](int64_t first, int64_t last) {
    c10::NoGradGuard no_grad;
    for (auto i = size_t(first); i < size_t(last); ++i) {
      const auto& [site, was, wanted, is_base] = work[begin + i];
      batch->targets[i] = target(*site, is_base ? site->weight : stored_weight(*site, known), wanted, known);
    }
  });
  batch->plan();
  return batch;
}

// Adds what a batch did to the sites from work[begin] on.
void add_changes(RewriteBatch& batch, const std::vector<Rebuild>& work, size_t begin,
                 std::vector<SiteChange>& changes) {
  batch.add_up();
  for (size_t i = 0; i < batch.sums.size(); ++i)
    if (batch.targets[i].changes()) changes.push_back({work[begin + i].site, batch.sums[i]});
}

}  // namespace

bool is_before(const SiteChange& a, const SiteChange& b) {
  return std::pair(a.site->owner->component, a.site->index) < std::pair(b.site->owner->component, b.site->index);
}

std::vector<SiteChange> measure(const std::vector<Rebuild>& work, const BaseWeights& known) {
  c10::NoGradGuard no_grad;
  std::vector<SiteChange> changes;
  changes.reserve(work.size());
  for (size_t begin = 0, end; begin < work.size(); begin = end) {
    end = end_of_wave(work, begin);
    auto some = batch(work, begin, end, known);
    some->measure();
    add_changes(*some, work, begin, changes);
  }
  return changes;
}

// ---- Preparing ------------------------------------------------------------------------------------------------------

Rewrite::Rewrite(std::vector<Rebuild> work, BaseWeights& known) : work_(std::move(work)), known_(known) {
  if (work_.empty()) return;
  c10::NoGradGuard no_grad;
  try {
    for (const auto& rebuild : work_) keep_for_writing(*rebuild.site);
    copy_bases();
    prepared_ = work_.size();
    if (const bool on_gpu = !work_.front().site->weight.is_cpu(); on_gpu || end_of_wave(work_, 0) < work_.size()) {
      auto is_sure = [&](auto& rebuild) { return !on_gpu && !is_dense(rebuild.wanted); };
      prepared_ = size_t(std::stable_partition(work_.begin(), work_.end(), is_sure) - work_.begin());
    }
    ready_ = batch(work_, 0, prepared_, known_);
    undo_ = std::make_unique<RewriteBatch>();
    for (auto i = prepared_; i < work_.size(); ++i) {
      auto* site = work_[i].site;
      const auto& was = work_[i].was;
      auto& old = undo_->targets.emplace_back(is_dense(was) ? as_it_is(*site)
                                                            : target(*site, stored_weight(*site, known_), was, known_));
      if (site->bias.defined()) old.bias = site->bias.clone();
    }
    undo_->plan();
    changes_.reserve(work_.size());
    for (const auto& rebuild : work_) known_.written.insert(rebuild.site);
    for (const auto& rebuild : work_) rebuild.site->stays = true;
  } catch (...) {
    for (auto* site : copied_) known_.copies.erase(site);
    throw;
  }
}

Rewrite::~Rewrite() {
  if (!written_)
    for (auto* site : copied_) known_.copies.erase(site);
}

void Rewrite::copy_bases() {
  for (const auto& [site, was, wanted, is_base] : work_) {
    if (wanted.empty() || known_.copies.contains(site)) continue;
    bool own_weight = stored_weight(*site, known_).data_ptr() == site->weight.data_ptr();
    bool own_bias = site->bias.defined() && stored_bias(*site, known_).data_ptr() == site->bias.data_ptr();
    if (!own_weight && !own_bias) continue;
    auto weight = own_weight ? site->weight.clone() : Tensor(), bias = own_bias ? site->bias.clone() : Tensor();
    copied_.push_back(site);
    known_.copies[site] = {std::move(weight), std::move(bias)};
  }
}

const Rebuild* Rewrite::find(const Site& site) const {
  auto it = std::find_if(work_.begin(), work_.end(), [&](auto& rebuild) { return rebuild.site == &site; });
  return it == work_.end() ? nullptr : &*it;
}

Tensor Rewrite::weight(const Site& site) const {
  auto* rebuild = find(site);
  if (!rebuild) return {};
  auto base = known_.weight(site);
  auto t = target(site, base, rebuild->wanted, known_);
  return with_effects(t.sum, base, base);
}

Tensor Rewrite::bias(const Site& site) const {
  auto* rebuild = find(site);
  return rebuild ? target(site, known_.weight(site), rebuild->wanted, known_).bias : Tensor();
}

// ---- Writing --------------------------------------------------------------------------------------------------------

std::vector<SiteChange> Rewrite::write() {
  if (work_.empty()) return {};
  c10::NoGradGuard no_grad;
  size_t end = prepared_;
  try {
    for (auto begin = prepared_; begin < work_.size(); begin = end) {  // the waves first, because they can still fail
      auto wave = batch(work_, begin, end_of_wave(work_, begin), known_);
      end = begin + wave->targets.size();
      wave->write(wave->targets.size());
      add_changes(*wave, work_, begin, changes_);
    }
    ready_->write(prepared_);
    add_changes(*ready_, work_, 0, changes_);
  } catch (...) {
    undo(end);
    throw;
  }
  written_ = true;
  for (const auto& [site, was, wanted, is_base] : work_) {
    if (wanted.empty()) known_.copies.erase(site);
    known_.spoilt.erase(site);
  }
  return std::move(changes_);
}

// Restores the sites that were written, up to work_[end].
void Rewrite::undo(size_t end) {
  try {
    undo_->write(end - prepared_);
  } catch (...) {  // a GPU without enough memory for the undo
    for (auto i = prepared_; i < end; ++i) known_.spoilt.insert(work_[i].site);
    written_ = true;  // keeps the copies, which the next change needs
  }
}

}  // namespace lora
