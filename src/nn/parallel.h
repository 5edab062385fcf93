#pragma once
// Work of our own on libtorch's threads.
#include <ATen/Parallel.h>

#include <atomic>

namespace lora {

// Calls work(begin, end) on libtorch's threads, for ranges of at least `grain` numbers that together are [0, count).
// The work sees what was written before, and what it writes is seen after. OpenMP's barriers see to that. The two
// atomics say the same to ThreadSanitizer, which does not know these barriers.
template <class Work>
void parallel_ranges(int64_t count, int64_t grain, const Work& work) {
  struct Mark {
    std::atomic<int>& mark;
    ~Mark() { mark.fetch_add(1, std::memory_order_release); }
  };
  std::atomic<int> started = 0, ended = 0;
  started.store(1, std::memory_order_release);
  at::parallel_for(0, count, grain, [&](int64_t begin, int64_t end) {
    started.load(std::memory_order_acquire);
    Mark mark{ended};
    work(begin, end);
  });
  ended.load(std::memory_order_acquire);
}

}  // namespace lora
