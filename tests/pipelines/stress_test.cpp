// Many threads make random calls at once. Afterwards one thread repeats the writers' log and compares: each call must
// have given what its snapshot gives alone. LORA_STRESS_SECONDS sets the time, 5 by default.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <map>
#include <mutex>
#include <random>
#include <set>
#include <thread>

#include "pipelines/states.h"
#include "pipelines/tiny_pipelines.h"

namespace lora {

namespace {

using Names = std::vector<std::string>;
using Clock = std::chrono::steady_clock;

constexpr int kCallers = 8, kWriters = 2;
// The most calls of a thread, whatever the time.
constexpr int kMostCalls = 100000, kMostWrites = 100000;

Clock::duration half_of_the_time() {
  auto* given = std::getenv("LORA_STRESS_SECONDS");
  return std::chrono::milliseconds(int64_t(500 * (given ? std::atof(given) : 5)));
}

// ---- What writers do ------------------------------------------------------------------------------------------------

using Files = std::vector<StateDict>;

// One call as data, to repeat it.
struct Write {
  enum Kind { load, hotswap, set, fuse, unfuse, remove, enable, disable, unload };
  Kind kind = load;
  Names names;
  size_t file = 0;
  double weight = 1;
  std::string component;  // "": all
};

const char* name_of(Write::Kind kind) {
  constexpr const char* kNames[] = {"load",   "hotswap", "set",     "fuse",  "unfuse",
                                    "delete", "enable",  "disable", "unload"};
  return kNames[kind];
}

Write some_write(std::mt19937& random, size_t files) {
  auto pick = [&](int n) { return int(random() % unsigned(n)); };
  // Loads often, so that there are adapters to set and fuse, and unloads rarely.
  constexpr Write::Kind kKinds[] = {Write::load,   Write::load,   Write::load,   Write::load,    Write::hotswap,
                                    Write::set,    Write::set,    Write::set,    Write::fuse,    Write::fuse,
                                    Write::fuse,   Write::unfuse, Write::unfuse, Write::remove,  Write::remove,
                                    Write::enable, Write::enable, Write::enable, Write::disable, Write::unload};
  const Names all{"a", "b", "c"};
  Write write{
      .kind = kKinds[pick(std::size(kKinds))], .file = size_t(pick(int(files))), .weight = 0.1 * pick(12) - 0.2};
  write.names = {all[size_t(pick(3))]};
  if (write.kind == Write::set && pick(2)) write.names.push_back(all[size_t(pick(3))]);
  if (write.kind == Write::fuse && pick(2)) write.names.clear();  // the active ones
  if (write.kind == Write::unfuse && pick(2)) write.names.clear();
  if (pick(3) == 0) write.component = pick(2) ? "unet" : "text_encoder";
  return write;
}

void apply(const Write& write, DiffusionPipeline& pipe, const Files& files) {
  Names components;
  if (!write.component.empty()) components = {write.component};
  switch (write.kind) {
    case Write::load: pipe.load_lora_weights(files[write.file], {.adapter_name = write.names[0]}); break;
    case Write::hotswap:
      pipe.load_lora_weights(files[write.file], {.adapter_name = write.names[0], .hotswap = true});
      break;
    case Write::set: pipe.set_adapters(write.names, {write.weight}); break;
    case Write::fuse:
      pipe.fuse_lora({.components = components, .lora_scale = write.weight, .adapter_names = write.names});
      break;
    case Write::unfuse: pipe.unfuse_lora({.components = components, .adapter_names = write.names}); break;
    case Write::remove: pipe.delete_adapters(write.names); break;
    case Write::enable: pipe.enable_lora(); break;
    case Write::disable: pipe.disable_lora(); break;
    case Write::unload: pipe.unload_lora_weights(); break;
  }
}

// Returns false where the call refused, for example because a name was in use or unknown.
bool try_to_apply(const Write& write, DiffusionPipeline& pipe, const Files& files) {
  try {
    apply(write, pipe, files);
    return true;
  } catch (const Error& error) {
    EXPECT_TRUE(error.kind() == ErrorKind::not_found || error.kind() == ErrorKind::conflict)
        << name_of(write.kind) << ": " << error.what();
    return false;
  }
}

// ---- What callers do ------------------------------------------------------------------------------------------------

constexpr int kKindsOfCalls = 4;

// Short calls: with the active adapters, with these scaled, with adapters of the call, and without adapters.
CallOptions options(int kind) {
  CallOptions o{.num_inference_steps = 1, .seed = {uint64_t(kind)}};
  if (kind == 1) o.cross_attention_kwargs.scale = 0.5;
  if (kind == 2) o.adapters = {{.name = "a", .weight = 0.7}};
  if (kind == 3) o.adapters.emplace();
  return o;
}

struct Drawn {
  uint64_t snapshot = 0;
  Tensor latents;  // undefined where the call was refused because its adapter was not loaded
};

Drawn draw(const DiffusionPipeline& pipe, int kind) {
  Drawn drawn;
  auto o = options(kind);
  o.callback_on_step_end = [&](const StepEnd& end) {
    drawn.snapshot = end.lora_snapshot;
    return true;
  };
  try {
    drawn.latents = pipe.generate_latents("rocket", o);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::not_found) << error.what();
    EXPECT_EQ(kind, 2) << error.what();
  }
  return drawn;
}

// ---- Both -----------------------------------------------------------------------------------------------------------

class Stress : public testing::Test {
 protected:
  void SetUp() override {
    at::set_num_threads(1);  // with more threads, the order of sums depends on the free cores
    auto pipe = open();
    for (uint64_t seed : {1, 2}) files_.push_back(states::factors(*pipe, seed));
    files_.push_back(states::factors(*pipe, 3, {"to_v", "fc1"}));
  }

  static std::unique_ptr<DiffusionPipeline> open() { return tiny::open("sd"); }

  // Runs `write` on every writer and `call` on every caller until the time is over. Each thread has its own `random`.
  // An exception ends the thread and fails the test.
  template <class WriteOnce, class CallOnce>
  void run(WriteOnce write, CallOnce call) {
    auto end = Clock::now() + half_of_the_time();
    std::vector<std::thread> threads;
    auto start = [&](int index, int most, auto work) {
      threads.emplace_back([=, this] {
        at::set_num_threads(1);
        std::mt19937 random(unsigned(index + 1));
        try {
          for (int i = 0; i < most && Clock::now() < end; ++i) work(index, random);
        } catch (const std::exception& error) {
          ADD_FAILURE() << "thread " << index << ": " << error.what();
        }
      });
    };
    for (int i = 0; i < kCallers; ++i) start(i, kMostCalls, call);
    for (int i = 0; i < kWriters; ++i) start(kCallers + i, kMostWrites, write);
    for (auto& thread : threads) thread.join();
  }

  Files files_;
};

// One call of a caller.
struct Call {
  uint64_t snapshot;
  int kind;
  Tensor latents;
};

}  // namespace

TEST_F(Stress, EveryCallGivesWhatItsSnapshotGives) {
  auto pipe = open();
  const auto first = pipe->lora_snapshot();
  std::mutex writing;  // of the test, so that the log has the order of the snapshots
  std::vector<Write> log;
  std::vector<std::vector<Call>> calls(kCallers);
  std::atomic<int> refused = 0;
  run(
      [&](int, std::mt19937& random) {
        auto write = some_write(random, files_.size());
        {
          std::lock_guard lock(writing);
          if (try_to_apply(write, *pipe, files_))
            log.push_back(write);
          else
            ++refused;
          // Each call that succeeded adds one, and a refused call adds none.
          EXPECT_EQ(pipe->lora_snapshot(), first + log.size()) << name_of(write.kind);
        }
        std::this_thread::sleep_for(std::chrono::microseconds(random() % 2000));
      },
      [&](int caller, std::mt19937& random) {
        auto before = pipe->lora_snapshot();
        auto kind = int(random() % kKindsOfCalls);
        auto drawn = draw(*pipe, kind);
        if (!drawn.latents.defined()) return;
        EXPECT_GE(drawn.snapshot, before) << "a call begins with what there is, or later";
        EXPECT_LE(drawn.snapshot, pipe->lora_snapshot());
        calls[size_t(caller)].push_back({drawn.snapshot, kind, drawn.latents});
      });

  // Repeats the calls, one after another.
  std::map<uint64_t, std::map<int, std::vector<Tensor>>> seen;  // by snapshot and kind
  size_t count = 0;
  for (const auto& each : calls)
    for (const auto& call : each) {
      seen[call.snapshot][call.kind].push_back(call.latents);
      ++count;
    }
  auto alone = open();
  int torn = 0;
  for (size_t i = 0; i <= log.size(); ++i) {
    if (i > 0) {
      ASSERT_TRUE(try_to_apply(log[i - 1], *alone, files_)) << i << ": " << name_of(log[i - 1].kind);
    }
    for (const auto& [kind, all] : seen[first + i]) {
      auto wanted = draw(*alone, kind).latents;
      ASSERT_TRUE(wanted.defined()) << "an adapter that was there is not";
      for (const auto& latents : all) torn += !at::equal(latents, wanted);
    }
  }
  EXPECT_EQ(torn, 0) << "of " << count << " calls, while " << log.size() << " were made that change the pipeline";
  EXPECT_GT(count, 0u);
  EXPECT_GT(log.size(), 0u);
  EXPECT_EQ(states::difference(*pipe, states::state(*alone)), "");
  RecordProperty("calls", int(count));
  RecordProperty("writes", int(log.size()));
  RecordProperty("refused", int(refused));
}

// Only writers. Undoing their calls restores every bit.
TEST_F(Stress, WhatManyWritersLeaveIsUndoneExactly) {
  auto pipe = open();
  auto base = states::state(*pipe);
  auto latents = draw(*pipe, 0).latents;
  const auto first = pipe->lora_snapshot();
  std::atomic<uint64_t> made = 0;
  run(
      [&](int, std::mt19937& random) {
        made += try_to_apply(some_write(random, files_.size()), *pipe, files_);
        std::this_thread::sleep_for(std::chrono::microseconds(random() % 500));
      },
      [&](int, std::mt19937& random) {
        auto drawn = draw(*pipe, int(random() % kKindsOfCalls));
        EXPECT_TRUE(!drawn.latents.defined() || at::isfinite(drawn.latents).all().item<bool>());
      });
  EXPECT_EQ(pipe->lora_snapshot(), first + made);
  EXPECT_GT(made, 0u);

  // The lists agree with the weights.
  auto active = pipe->get_active_adapters(), fused = pipe->fused_loras();
  auto loaded = pipe->get_list_adapters();
  for (const auto& name : active) {
    bool there = std::any_of(loaded.begin(), loaded.end(), [&](auto& row) {
      return std::find(row.second.begin(), row.second.end(), name) != row.second.end();
    });
    EXPECT_TRUE(there) << name;
  }
  pipe->enable_lora();
  pipe->unfuse_lora();
  std::set<std::string> names;
  for (const auto& [component, own] : pipe->get_list_adapters()) names.insert(own.begin(), own.end());
  if (!names.empty()) pipe->delete_adapters(Names(names.begin(), names.end()));
  EXPECT_EQ(states::difference(*pipe, base), "");
  EXPECT_TRUE(at::equal(draw(*pipe, 0).latents, latents));
}

}  // namespace lora
