#include "nn/gate.h"

namespace lora {

void Gate::enter() {
  std::unique_lock lock(mutex_);
  const auto ticket = next_ticket_++;
  changed_.wait(lock, [&] { return turn_ == ticket; });
  ++inside_;
  ++turn_;  // the next run may pass at once; a writer still waits until this run leaves
  changed_.notify_all();
}

void Gate::leave() {
  std::lock_guard lock(mutex_);
  if (--inside_ == 0) changed_.notify_all();
}

void Gate::close() {
  std::unique_lock lock(mutex_);
  const auto ticket = next_ticket_++;
  changed_.wait(lock, [&] { return turn_ == ticket && inside_ == 0; });
}

void Gate::open() {
  std::lock_guard lock(mutex_);
  ++turn_;
  changed_.notify_all();
}

}  // namespace lora
