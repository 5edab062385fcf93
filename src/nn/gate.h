#pragma once
// A lock between the runs of a pipeline and the writers of its weights, in order of arrival. Consecutive runs share it;
// a writer has it alone. A waiting writer keeps later runs out, so nobody waits for ever. A run that has begun always
// ends undisturbed.
#include <condition_variable>
#include <cstdint>
#include <mutex>

namespace lora {

// Threads: any number may use a gate at the same time. A thread that is inside must not enter again. SnapshotScope
// enters once for all scopes nested in it.
class Gate {
 public:
  void enter();  // for a run: shared with other runs
  void leave();
  void close();  // for a writer: returns when all runs have left
  void open();

  // Closes the gate; the destructor opens it.
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
  uint64_t next_ticket_ = 0, turn_ = 0;  // turn_ is the ticket that may pass next
  uint64_t inside_ = 0;                  // the number of runs inside
};

}  // namespace lora
