#include "nn/gate.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

namespace lora {

namespace {

// Waits until something is so. What never comes ends the test by the runner's time limit.
template <class Condition>
void until(Condition condition) {
  while (!condition()) std::this_thread::yield();
}

}  // namespace

TEST(Gate, RunsShareIt) {
  Gate gate;
  gate.enter();
  std::thread([&] {
    gate.enter();
    gate.leave();
  }).join();
  gate.leave();
}

TEST(Gate, AWriterWaitsForTheRunsInsideAndKeepsOthersOut) {
  Gate gate;
  std::atomic<int> order = 0, writer = 0, late = 0;
  gate.enter();
  std::atomic<bool> asks = false;
  std::thread closing([&] {
    asks = true;
    Gate::Closed alone(gate);
    writer = ++order;
  });
  until([&] { return asks.load(); });
  std::this_thread::sleep_for(std::chrono::milliseconds(200));  // so that it is in the queue
  std::thread entering([&] {
    gate.enter();
    late = ++order;
    gate.leave();
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  EXPECT_EQ(order, 0) << "the writer waits for the run, the late run for the writer";
  gate.leave();
  closing.join();
  entering.join();
  EXPECT_EQ(writer, 1);
  EXPECT_EQ(late, 2);
}

// Threads that come again and again neither keep each other out nor meet a writer.
TEST(Gate, NobodyStarvesAndNobodyMeetsAWriter) {
  Gate gate;
  std::atomic<int> inside = 0, writing = 0, faults = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&] {
      for (int n = 0; n < 2000; ++n) {
        gate.enter();
        ++inside;
        if (writing > 0) ++faults;
        --inside;
        gate.leave();
      }
    });
  for (int i = 0; i < 2; ++i)
    threads.emplace_back([&] {
      for (int n = 0; n < 500; ++n) {
        Gate::Closed alone(gate);
        if (++writing != 1 || inside > 0) ++faults;
        --writing;
      }
    });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(faults, 0);
}

}  // namespace lora
