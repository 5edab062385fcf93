#include "nn/run.h"

#include "core/check.h"

namespace lora {

namespace {

thread_local const SnapshotScope* innermost_snapshot = nullptr;
thread_local const RunScope* innermost_run = nullptr;

}  // namespace

SnapshotScope::SnapshotScope(const RunSource& source) : source_(&source), outer_(innermost_snapshot) {
  auto* around = find(source);
  entered_ = !around;
  if (entered_) source.gate().enter();
  snapshot_ = around ? around->snapshot_ : source.snapshot();
  innermost_snapshot = this;
}

SnapshotScope::~SnapshotScope() {
  innermost_snapshot = outer_;
  if (entered_) source_->gate().leave();
}

const SnapshotScope* SnapshotScope::find(const RunSource& source) {
  for (auto* scope = innermost_snapshot; scope; scope = scope->outer_)
    if (scope->source_ == &source) return scope;
  return nullptr;
}

RunScope::RunScope(const Parts& parts) : parts_(&parts), outer_(innermost_run), hold_(parts) {
  if (auto* around = find(parts)) {
    begin(around->run_);
  } else if (parts.source) {
    pin_.emplace(*parts.source);
    begin(pin_->snapshot()->runs[parts.component]);
  } else {
    begin(nullptr);
  }
}

RunScope::RunScope(const Parts& parts, std::shared_ptr<const Run> run)
    : parts_(&parts), outer_(innermost_run), hold_(parts) {
  if (parts.source) pin_.emplace(*parts.source);
  begin(std::move(run));
}

void RunScope::begin(std::shared_ptr<const Run> run) {
  check(!run || run->problem.empty(), ErrorKind::conflict, "{}", run ? run->problem : "");
  hold_.bring_back();
  run_ = std::move(run);
  innermost_run = this;
}

RunScope::~RunScope() { innermost_run = outer_; }

const RunScope* RunScope::find(const Parts& parts) {
  for (auto* scope = innermost_run; scope; scope = scope->outer_)
    if (scope->parts_ == &parts) return scope;
  return nullptr;
}

const Applied* RunScope::at(const Site& site) {
  auto* scope = find(*site.owner);
  return scope && scope->run_ ? scope->run_->at[site.index].get() : nullptr;
}

std::shared_ptr<const AddedRows> RunScope::added(const Parts& parts) {
  if (auto* scope = find(parts)) return scope->run_ ? scope->run_->added : nullptr;
  if (!parts.source) return nullptr;
  auto* pinned = SnapshotScope::find(*parts.source);
  auto snapshot = pinned ? pinned->snapshot() : parts.source->snapshot();
  return snapshot->runs[parts.component]->added;
}

}  // namespace lora
