#include "nn/weights.h"

#include <ATen/ATen.h>
#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include "io/mapped_file.h"
#include "io/public_call.h"

namespace lora {

namespace {

bool is_away(const Tensor& t) { return t.defined() && t.numel() > 0 && t.storage().data() == nullptr; }

void leave(const Tensor& t) { t.storage().unsafeGetStorageImpl()->set_data_ptr(c10::DataPtr(nullptr, t.device())); }

// The tensor keeps its identity: layers and the table of tensors share it.
void bring_back(const Tensor& t, const Tensor& source) {
  if (!is_away(t)) return;
  const FreshState fresh;
  const auto copy = at::empty_like(t).copy_(source);
  t.storage().unsafeGetStorageImpl()->set_data_ptr(
      copy.storage().unsafeGetStorageImpl()->set_data_ptr(c10::DataPtr(nullptr, t.device())));
}

// Calls work(tensor, source) for each weight and bias that can be made again.
template <class Work>
void each_converted(const Parts& parts, const Work& work) {
  for (const auto& site : parts.sites) {
    if (site->stays) continue;
    if (site->weight_source.defined()) work(site->weight, site->weight_source);
    if (site->bias_source.defined()) work(site->bias, site->bias_source);
  }
}

// The caller holds the lock. Must not throw.
void all_leave(const Parts& parts) {
  const CleanPages pages;
  for (const auto& [name, t] : parts.tensors) pages.release(t);
  each_converted(parts, [](const Tensor& t, const Tensor&) { leave(t); });
#if defined(__GLIBC__)
  ::malloc_trim(0);  // weights are often smaller than what glibc gives back by itself
#endif
}

// The caller holds the lock.
void all_come_back(const Parts& parts) {
  const CleanPages pages;
  each_converted(parts, [&](const Tensor& t, const Tensor& source) {
    if (!is_away(t)) return;
    bring_back(t, source);
    pages.release(source);
  });
}

Tensor present(const Site& site, const Tensor& now, const Tensor& source) {
  if (!source.defined() || site.stays || !site.owner->holds.may_leave) return now;
  return source.to(now.device(), now.scalar_type());
}

}  // namespace

void let_weights_leave(const Parts& parts) {
  std::lock_guard lock(parts.holds.mutex);
  parts.holds.may_leave = true;
  if (parts.holds.count == 0) all_leave(parts);
}

void keep_weights(const Parts& parts) {
  std::lock_guard lock(parts.holds.mutex);
  if (!parts.holds.may_leave) return;
  all_come_back(parts);
  parts.holds.may_leave = false;  // last, because other threads look at it without the lock
}

WeightsHold::WeightsHold(const Parts& parts) : parts_(parts) {
  std::lock_guard lock(parts.holds.mutex);
  ++parts.holds.count;
}

WeightsHold::~WeightsHold() {
  std::lock_guard lock(parts_.holds.mutex);
  if (--parts_.holds.count == 0 && parts_.holds.may_leave) all_leave(parts_);
}

void WeightsHold::bring_back() const {
  if (!parts_.holds.may_leave) return;
  std::lock_guard lock(parts_.holds.mutex);
  all_come_back(parts_);
}

Tensor present_weight(const Site& site) { return present(site, site.weight, site.weight_source); }

Tensor present_bias(const Site& site) { return present(site, site.bias, site.bias_source); }

void keep_for_writing(Site& site) {
  bring_back(site.weight, site.weight_source);
  bring_back(site.bias, site.bias_source);
}

}  // namespace lora
