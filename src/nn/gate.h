#pragma once
// The gate between a pipeline's runs and those who write its weights. Everyone passes in the order of arrival:
// neighbouring runs together, a writer alone. So a writer that waits keeps out the runs that come after it, a run that
// has begun ends undisturbed, and nobody waits for ever.
#include <condition_variable>
#include <cstdint>
#include <mutex>

namespace lora {

// Any number of threads may use a gate at once. A thread that is inside must not enter again: see SnapshotScope, which
// enters once for all that is nested in it.
class Gate {
 public:
  void enter();  // a run: shared with other runs
  void leave();
  void close();  // a writer: returns once every run has left
  void open();

  // Keeps the gate closed while it lives.
  class Closed {
   public:
    explicit Closed(Gate& gate) : gate_(gate) { gate_.close(); }
    ~Closed() { gate_.open(); }
    Closed(const Closed&) = delete;
    Closed& operator=(const Closed&) = delete;

   private:
    Gate& gate_;
  };

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  uint64_t next_ticket_ = 0, turn_ = 0;  // whose turn it is to pass
  uint64_t inside_ = 0;                  // runs
};

}  // namespace lora
