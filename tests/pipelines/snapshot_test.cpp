// A call sees one state of a pipeline, and a writer gets its turn. Moving a pipeline and the thread's gradient modes
// change nothing.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/autocast_mode.h>
#include <c10/core/GradMode.h>
#include <c10/core/InferenceMode.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <future>
#include <thread>
#include <type_traits>

#include "pipelines/states.h"
#include "pipelines/tiny_pipelines.h"

namespace lora {

namespace {

using namespace std::chrono_literals;
using Names = std::vector<std::string>;

CallOptions steps(int count) { return {.num_inference_steps = count, .seed = {0}}; }

// The smallest size that every level of the models can hold.
CallOptions one_step() {
  auto o = steps(1);
  o.height = o.width = 32;
  return o;
}

Tensor draw(const DiffusionPipeline& pipe, const CallOptions& o = one_step()) {
  return pipe.generate_latents("rocket", o);
}

std::unique_ptr<DiffusionPipeline> embedded() {
  return DiffusionPipeline::from_pretrained(embedded_models() / "tiny", {.dtype = at::kFloat});
}

// With more threads, the order of sums depends on how many cores are free.
class Snapshot : public testing::Test {
 protected:
  void SetUp() override { at::set_num_threads(1); }
};
class Turns : public Snapshot {};
class Moved : public Snapshot {};
class Modes : public Snapshot {};

// Threads that begin something at the same moment.
class Together {
 public:
  explicit Together(int count) : missing_(count) {}
  void arrive() {
    for (--missing_; missing_ > 0;) std::this_thread::yield();
  }

 private:
  std::atomic<int> missing_;
};

// Sets a flag at the end of its scope, also after an exception.
struct AtEnd {
  std::atomic<bool>& flag;
  ~AtEnd() { flag = true; }
};

}  // namespace

// ---- A call sees one state ------------------------------------------------------------------------------------------

namespace {

// How many calls gave the image of one state, of the other state, and of neither.
struct Seen {
  int off = 0, on = 0, torn = 0;
};

// Draws while another thread changes the pipeline: change(0), change(1), … Draws at least `draws` times, and until both
// states came. The threads may fall into step, so they pause for times of different length.
template <class Change>
Seen draw_while(const DiffusionPipeline& pipe, int draws, const Tensor& off, const Tensor& on, Change change) {
  std::atomic<bool> stop = false;
  auto changes = std::async(std::launch::async, [&] {
    at::set_num_threads(1);
    for (int k = 0; !stop; ++k) {
      change(k);
      std::this_thread::sleep_for(std::chrono::microseconds(200 * (k % 7)));
    }
  });
  Seen seen;
  {
    AtEnd end{stop};
    for (int i = 0; i < draws || (i < 20 * draws && (seen.on == 0 || seen.off == 0)); ++i) {
      auto latents = draw(pipe);
      if (at::equal(latents, off))
        ++seen.off;
      else if (at::equal(latents, on))
        ++seen.on;
      else
        ++seen.torn;
    }
  }
  changes.get();
  return seen;
}

void expect_whole(const Seen& seen) {
  EXPECT_EQ(seen.torn, 0) << "of " << seen.off + seen.on + seen.torn << " calls";
  EXPECT_GT(seen.off, 0);
  EXPECT_GT(seen.on, 0);
}

// The images without and with the adapter.
struct Pictures {
  Tensor off, on;
};

Pictures load(DiffusionPipeline& pipe, const StateDict& adapter) {
  pipe.load_lora_weights(adapter, {.adapter_name = "a"});
  auto on = draw(pipe);
  pipe.set_adapters({"a"}, {0});
  auto off = draw(pipe);
  pipe.set_adapters({"a"});
  EXPECT_FALSE(at::equal(off, on));
  return {off, on};
}

void set_while_drawing(DiffusionPipeline& pipe, int draws) {
  auto [off, on] = load(pipe, states::factors(pipe));
  expect_whole(draw_while(pipe, draws, off, on, [&](int k) { pipe.set_adapters({"a"}, {double(k % 2)}); }));
}

void switch_while_drawing(DiffusionPipeline& pipe, int draws) {
  auto [off, on] = load(pipe, states::factors(pipe));
  expect_whole(draw_while(pipe, draws, off, on, [&](int k) { k % 2 ? pipe.enable_lora() : pipe.disable_lora(); }));
}

void load_while_drawing(DiffusionPipeline& pipe, int draws) {
  auto adapter = states::factors(pipe);
  auto [off, on] = load(pipe, adapter);
  expect_whole(draw_while(pipe, draws, off, on, [&](int k) {
    if (k % 2)
      pipe.load_lora_weights(adapter, {.adapter_name = "a"});
    else
      pipe.delete_adapters({"a"});
  }));
}

// Fusing writes weights, so fusing and drawing wait for each other. There are only the images of two states here too.
void fuse_while_drawing(DiffusionPipeline& pipe, int draws) {
  auto on = load(pipe, states::factors(pipe)).on;
  pipe.fuse_lora();
  auto fused = draw(pipe);
  pipe.unfuse_lora();
  expect_whole(draw_while(pipe, draws, on, fused, [&](int k) {
    if (k % 2)
      pipe.unfuse_lora();
    else
      pipe.fuse_lora();
  }));
}

// Hotswaps the adapter between two files.
void hotswap_while_drawing(DiffusionPipeline& pipe, int draws) {
  auto one = states::factors(pipe), two = states::factors(pipe, 2);
  auto first = load(pipe, one).on;
  auto swap = [&](const StateDict& file) { pipe.load_lora_weights(file, {.adapter_name = "a", .hotswap = true}); };
  swap(two);
  auto second = draw(pipe);
  expect_whole(draw_while(pipe, draws, first, second, [&](int k) { swap(k % 2 ? two : one); }));
}

}  // namespace

TEST_F(Snapshot, ACallSeesOneStateWhileWeightsAreSet) { set_while_drawing(*embedded(), 400); }
TEST_F(Snapshot, ACallSeesOneStateWhileLorasAreSwitched) { switch_while_drawing(*embedded(), 200); }
TEST_F(Snapshot, ACallSeesOneStateWhileAnAdapterComesAndGoes) { load_while_drawing(*embedded(), 200); }
TEST_F(Snapshot, ACallSeesOneStateWhileAnAdapterIsFused) { fuse_while_drawing(*embedded(), 60); }
TEST_F(Snapshot, ACallSeesOneStateWhileAnAdapterIsSwapped) { hotswap_while_drawing(*embedded(), 100); }

class SnapshotOf : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { at::set_num_threads(1); }
};

// Pipelines with several text encoders.
TEST_P(SnapshotOf, EveryPipelineACallSeesOneState) {
  set_while_drawing(*tiny::open(GetParam()), 150);
  switch_while_drawing(*tiny::open(GetParam()), 100);
  load_while_drawing(*tiny::open(GetParam()), 100);
  fuse_while_drawing(*tiny::open(GetParam()), 50);
}

INSTANTIATE_TEST_SUITE_P(Pipelines, SnapshotOf, testing::Values("sdxl", "sd3"), tiny::test_name);

// encode_prompt() uses one state for all text encoders.
TEST_F(Snapshot, APromptIsEncodedInOneState) {
  auto pipe = StableDiffusion3Pipeline::from_pretrained(tiny::folder("sd3"), {.dtype = at::kFloat});
  pipe.load_lora_weights(states::factors(pipe), {.adapter_name = "a"});
  auto encode = [&] {
    auto out = pipe.encode_prompt("rocket");
    return at::cat({out.prompt_embeds.flatten(), out.pooled.flatten()});
  };
  auto on = encode();
  pipe.disable_lora();
  auto off = encode();
  std::atomic<bool> stop = false;
  auto changes = std::async(std::launch::async, [&] {
    at::set_num_threads(1);
    for (int k = 0; !stop; ++k) k % 2 ? pipe.disable_lora() : pipe.enable_lora();
  });
  int torn = 0;
  {
    AtEnd end{stop};
    for (int i = 0; i < 300; ++i)
      if (auto states = encode(); !at::equal(states, on) && !at::equal(states, off)) ++torn;
  }
  changes.get();
  EXPECT_EQ(torn, 0);
}

namespace {

// Two adapters, and what the pipeline draws with each of them.
struct TwoAdapters {
  StateDict one, two;
  Tensor first, second;

  explicit TwoAdapters(DiffusionPipeline& pipe) : one(states::factors(pipe)), two(states::factors(pipe, 2)) {
    pipe.load_lora_weights(one, {.adapter_name = "one"});
    first = draw(pipe);
    pipe.load_lora_weights(two, {.adapter_name = "two"});
    second = draw(pipe);
  }
};

}  // namespace

// Two threads that set different mixes leave one of the two, never some of each.
TEST_F(Snapshot, TwoWritersLeaveTheStateOfOne) {
  auto pipe = tiny::open("sdxl");
  const TwoAdapters adapters(*pipe);
  int torn = 0;
  for (int i = 0; i < 300; ++i) {
    Together together(2);
    auto set = [&](const char* name) {
      return std::async(std::launch::async, [&, name] {
        together.arrive();
        pipe->set_adapters({name});
      });
    };
    auto a = set("one"), b = set("two");
    a.get();
    b.get();
    auto active = pipe->get_active_adapters();
    EXPECT_EQ(active.size(), 1u);
    if (!at::equal(draw(*pipe), active.front() == "one" ? adapters.first : adapters.second)) ++torn;
  }
  EXPECT_EQ(torn, 0);
}

// Only one of several threads can load an adapter under one name.
TEST_F(Snapshot, OfTwoLoadsOfOneNameOneIsRefused) {
  auto pipe = tiny::open("sdxl");
  const TwoAdapters adapters(*pipe);
  for (int i = 0; i < 100; ++i) {
    pipe->unload_lora_weights();
    Together together(2);
    std::atomic<int> loaded = 0, refused = 0, other = 0;
    auto load = [&](const StateDict& file) {
      return std::async(std::launch::async, [&] {
        together.arrive();
        try {
          pipe->load_lora_weights(file, {.adapter_name = "a"});
          ++loaded;
        } catch (const Error& error) {
          ++(error.kind() == ErrorKind::conflict ? refused : other);
        }
      });
    };
    auto a = load(adapters.one), b = load(adapters.two);
    a.get();
    b.get();
    EXPECT_EQ(loaded, 1);
    EXPECT_EQ(refused, 1);
    EXPECT_EQ(other, 0);
    auto latents = draw(*pipe);
    EXPECT_TRUE(at::equal(latents, adapters.first) || at::equal(latents, adapters.second));
  }
}

// ---- A writer gets its turn -----------------------------------------------------------------------------------------

namespace {

constexpr auto kDeadline = 60s;  // ends a hang; no test measures with it

// Three threads draw again and again, three steps each time.
class Callers {
 public:
  explicit Callers(const DiffusionPipeline& pipe) {
    for (int i = 0; i < 3; ++i) {
      threads_.push_back(std::async(std::launch::async, [&] {
        at::set_num_threads(1);
        while (!stop_) {
          draw(pipe, steps(3));
          ++ended_;
        }
      }));
      std::this_thread::sleep_for(70ms);  // so that one call is always running
    }
    std::this_thread::sleep_for(390ms);
  }
  ~Callers() { stop_ = true; }  // the destructor of threads_ waits for the threads
  void stop() { stop_ = true; }
  int ended() const { return ended_; }

 private:
  std::atomic<bool> stop_ = false;
  std::atomic<int> ended_ = 0;
  std::vector<std::future<void>> threads_;
};

// How many calls end between the request to write and the end of writing.
template <class Write>
int calls_during(Callers& callers, Write write) {
  auto ended = std::async(std::launch::async, [&] {
    at::set_num_threads(1);
    int before = callers.ended();
    write();
    return callers.ended() - before;
  });
  int before = callers.ended();
  if (ended.wait_for(kDeadline) != std::future_status::ready) {
    ADD_FAILURE() << "the writer had no turn, while " << callers.ended() - before << " calls ended";
    callers.stop();
  }
  return ended.get();
}

// The calls that have begun end first. A writer that reads a file asks for the weights later, so that each thread may
// end one more call.
constexpr int kUnderWay = 3, kWhileReading = 6;

}  // namespace

TEST_F(Turns, AWriterWaitsForTheCallsUnderWayAlone) {
  auto pipe = embedded();
  auto one = states::factors(*pipe), two = states::factors(*pipe, 2);
  auto base = states::weights(*pipe);
  pipe->load_lora_weights(one, {.adapter_name = "a"});
  {
    Callers callers(*pipe);
    EXPECT_LE(calls_during(callers, [&] { pipe->fuse_lora(); }), kUnderWay) << "fuse_lora";
    EXPECT_LE(calls_during(callers, [&] { pipe->disable_lora(); }), kUnderWay) << "disable_lora";
    EXPECT_LE(calls_during(callers, [&] { pipe->enable_lora(); }), kUnderWay) << "enable_lora";
    auto swap = [&] { pipe->load_lora_weights(two, {.adapter_name = "a", .hotswap = true}); };
    EXPECT_LE(calls_during(callers, swap), kWhileReading) << "hotswap";
    EXPECT_LE(calls_during(callers, [&] { pipe->unfuse_lora(); }), kUnderWay) << "unfuse_lora";
    pipe->fuse_lora();
    EXPECT_LE(calls_during(callers, [&] { pipe->delete_adapters({"a"}); }), kUnderWay) << "delete_adapters";
  }
  EXPECT_EQ(states::changed_weight(*pipe, base), "");
}

// Calls that do not write weights never wait: they all end while one pipeline call is running.
TEST_F(Turns, WhatWritesNoWeightDoesNotWait) {
  auto pipe = tiny::open("sd");
  auto one = states::factors(*pipe), two = states::factors(*pipe, 2);
  pipe->load_lora_weights(one, {.adapter_name = "a"});
  auto active = draw(*pipe, steps(2));
  std::promise<void> begun, done;
  auto call = std::async(std::launch::async, [&] {
    at::set_num_threads(1);
    auto o = steps(2);
    o.callback_on_step_end = [&](const StepEnd& end) {
      if (end.step > 0) return true;
      begun.set_value();
      EXPECT_EQ(done.get_future().wait_for(kDeadline), std::future_status::ready);
      return true;
    };
    return draw(*pipe, o);
  });
  begun.get_future().wait();
  pipe->load_lora_weights(two, {.adapter_name = "b"});
  pipe->set_adapters({"a", "b"}, {0.3, 0.4});
  pipe->disable_lora();
  pipe->enable_lora();
  pipe->load_lora_weights(one, {.adapter_name = "b", .hotswap = true});
  pipe->create_adapter("unet", {.adapter_name = "c", .r = 2, .target_modules = {"to_q"}});
  pipe->delete_adapters({"b"});
  pipe->unload_lora_weights();
  done.set_value();
  EXPECT_TRUE(at::equal(call.get(), active)) << "the call goes on with what was there when it began";
}

TEST_F(Turns, CallersGetThroughWhileAnotherThreadWritesAllTheTime) {
  auto pipe = embedded();
  auto [off, on] = load(*pipe, states::factors(*pipe));
  pipe->fuse_lora();
  auto fused = draw(*pipe);
  std::atomic<bool> stop = false;
  std::atomic<int> ended = 0;
  auto writer = std::async(std::launch::async, [&] {
    at::set_num_threads(1);
    while (!stop) {
      pipe->unfuse_lora();
      pipe->fuse_lora();
    }
  });
  AtEnd end{stop};
  auto caller = std::async(std::launch::async, [&] {
    at::set_num_threads(1);
    int torn = 0;
    for (int i = 0; i < 5; ++i, ++ended)
      if (auto latents = draw(*pipe); !at::equal(latents, on) && !at::equal(latents, fused)) ++torn;
    return torn;
  });
  if (caller.wait_for(kDeadline) != std::future_status::ready) {
    ADD_FAILURE() << ended << " of 5 calls ended";
    stop = true;
  }
  EXPECT_EQ(caller.get(), 0);
}

// Two writers and a caller do not deadlock.
TEST_F(Turns, WritersTakeTurnsWithEachOther) {
  auto pipe = tiny::open("sd");
  pipe->load_lora_weights(states::factors(*pipe), {.adapter_name = "a"});
  pipe->load_lora_weights(states::factors(*pipe, 2), {.adapter_name = "b"});
  std::atomic<bool> stop = false;
  std::vector<std::future<void>> threads;
  AtEnd end{stop};
  for (const char* name : {"a", "b"})
    threads.push_back(std::async(std::launch::async, [&, name] {
      at::set_num_threads(1);
      for (int i = 0; i < 30 && !stop; ++i) {
        pipe->fuse_lora({.adapter_names = {name}});
        pipe->unfuse_lora({.adapter_names = {name}});
      }
    }));
  threads.push_back(std::async(std::launch::async, [&] {
    at::set_num_threads(1);
    for (int i = 0; i < 30 && !stop; ++i) draw(*pipe);
  }));
  for (auto& thread : threads) {
    if (thread.wait_for(kDeadline) != std::future_status::ready) {
      ADD_FAILURE() << "a thread does not end";
      stop = true;
    }
    thread.get();
  }
  EXPECT_TRUE(pipe->fused_loras().empty());
}

// A call from inside a callback sees the adapters of the outer call. It does not wait for a writer that waits for the
// outer call.
TEST_F(Turns, ACallInsideACallIsAPartOfIt) {
  auto pipe = tiny::open("sd");
  pipe->load_lora_weights(states::factors(*pipe), {.adapter_name = "a"});
  auto active = draw(*pipe), whole = draw(*pipe, steps(2));
  auto call = std::async(std::launch::async, [&] {
    at::set_num_threads(1);
    std::future<void> writer;
    auto inner = one_step(), outer = steps(2);
    uint64_t number = 0;
    inner.callback_on_step_end = [&](const StepEnd& end) {
      number = end.lora_snapshot;
      return true;
    };
    outer.callback_on_step_end = [&](const StepEnd& end) {
      if (end.step > 0) return true;
      pipe->set_adapters({"a"}, {0.5});  // for later calls
      writer = std::async(std::launch::async, [&] { pipe->fuse_lora(); });
      std::this_thread::sleep_for(100ms);  // so that it waits
      EXPECT_TRUE(at::equal(draw(*pipe, inner), active));
      EXPECT_EQ(number, end.lora_snapshot);
      return true;
    };
    EXPECT_TRUE(at::equal(draw(*pipe, outer), whole));
    writer.get();
  });
  if (call.wait_for(kDeadline) != std::future_status::ready) {
    std::fputs("a call inside a call waits for ever\n", stderr);
    std::_Exit(1);  // these threads are deadlocked
  }
  call.get();
  EXPECT_EQ(pipe->fused_loras(), Names{"a"});
}

// A step's callback cannot write weights: the writer would wait for the callback's own run.
TEST_F(Turns, WeightsAreNotWrittenFromInsideARun) {
  auto pipe = tiny::open("sd");
  pipe->load_lora_weights(states::factors(*pipe), {.adapter_name = "a"});
  auto before = states::state(*pipe);
  auto on = draw(*pipe, steps(2));
  auto o = steps(2);
  int refused = 0;
  o.callback_on_step_end = [&](const StepEnd&) {
    error_of(ErrorKind::conflict, [&] { pipe->fuse_lora(); });
    ++refused;
    return true;
  };
  EXPECT_TRUE(at::equal(draw(*pipe, o), on));
  EXPECT_GE(refused, 2);
  EXPECT_EQ(states::difference(*pipe, before), "");
  pipe->fuse_lora();
  EXPECT_EQ(pipe->fused_loras(), Names{"a"});
}

// ---- Copies and moves -----------------------------------------------------------------------------------------------

template <class T>
constexpr bool is_moved_alone = !std::is_copy_constructible_v<T> && !std::is_copy_assignable_v<T> &&
                                !std::is_default_constructible_v<T> && std::is_move_constructible_v<T>;

static_assert(is_moved_alone<StableDiffusionPipeline>);
static_assert(is_moved_alone<StableDiffusionXLPipeline>);
static_assert(is_moved_alone<StableDiffusion3Pipeline>);
static_assert(is_moved_alone<AmusedPipeline>);
static_assert(!std::is_copy_constructible_v<DiffusionPipeline> && !std::is_copy_assignable_v<DiffusionPipeline>);
static_assert(is_moved_alone<UNet2DConditionModel>);
static_assert(is_moved_alone<SD3Transformer2DModel>);
static_assert(is_moved_alone<UVit2DModel>);
static_assert(is_moved_alone<CLIPTextModel>);
static_assert(is_moved_alone<T5EncoderModel>);
static_assert(is_moved_alone<AutoencoderKL>);
static_assert(is_moved_alone<VQModel>);

namespace {

// A moved pipeline keeps its fused, active and loaded adapters, and its images.
template <class Pipeline>
void move_with_adapters(const std::string& name) {
  SCOPED_TRACE(name);
  auto pipe = Pipeline::from_pretrained(tiny::folder(name), {.dtype = at::kFloat});
  auto base = states::weights(pipe);
  for (int i = 0; i < 3; ++i)
    pipe.load_lora_weights(states::factors(pipe, uint64_t(i)), {.adapter_name = std::string(1, char('a' + i))});
  pipe.fuse_lora({.lora_scale = 0.5, .adapter_names = {"a"}});
  pipe.set_adapters({"a", "b"}, {0.7, 0.4});
  auto before = states::state(pipe);
  auto latents = draw(pipe);
  auto pixels = pipe.decode_latents(latents).front().pixels;
  auto number = pipe.lora_snapshot();

  auto moved = std::move(pipe);
  EXPECT_EQ(states::difference(moved, before), "");
  EXPECT_EQ(moved.get_active_adapters(), (Names{"a", "b"}));
  EXPECT_EQ(moved.fused_loras(), Names{"a"});
  EXPECT_EQ(moved.lora_snapshot(), number);
  EXPECT_TRUE(at::equal(draw(moved), latents));
  EXPECT_EQ(moved.decode_latents(latents).front().pixels, pixels);

  // It can be moved again, and restored to the base model.
  auto again = std::make_unique<Pipeline>(std::move(moved));
  again->set_adapters({"c"});
  again->set_adapters({"a", "b"}, {0.7, 0.4});
  EXPECT_TRUE(at::equal(draw(*again), latents));
  again->unfuse_lora();
  again->delete_adapters({"a", "b", "c"});
  EXPECT_EQ(states::changed_weight(*again, base), "");
}

template <class Pipeline>
void use_what_was_moved_from(const std::string& name) {
  SCOPED_TRACE(name);
  auto pipe = Pipeline::from_pretrained(tiny::folder(name), {.dtype = at::kFloat});
  auto adapter = states::factors(pipe);
  auto latents = draw(pipe);
  auto moved = std::move(pipe);
  auto refused = [](auto work) { error_of(ErrorKind::usage, work); };
  TemporaryFolder folder;
  // NOLINTBEGIN(bugprone-use-after-move): the test is about it.
  refused([&] { draw(pipe); });
  refused([&] { pipe("rocket", steps(1)); });
  refused([&] { pipe.decode_latents(latents); });
  refused([&] { pipe.encode_prompt("rocket"); });
  refused([&] { pipe.save_pretrained(folder / "pipe"); });
  refused([&] { pipe.load_lora_weights(adapter); });
  refused([&] { pipe.match_lora(adapter); });
  refused([&] { pipe.set_adapters({}); });
  refused([&] { pipe.enable_lora(); });
  refused([&] { pipe.disable_lora(); });
  refused([&] { pipe.fuse_lora(); });
  refused([&] { pipe.unfuse_lora(); });
  refused([&] { pipe.delete_adapters({}); });
  refused([&] { pipe.unload_lora_weights(); });
  refused([&] { pipe.get_active_adapters(); });
  refused([&] { pipe.get_list_adapters(); });
  refused([&] { pipe.fused_loras(); });
  refused([&] { pipe.set_lora_device({}, at::kCPU); });
  refused([&] { pipe.get_lora_layers(moved.models().front().name, "a"); });
  refused([&] { pipe.trainable_parameters(moved.models().front().name, "a"); });
  refused([&] { pipe.create_adapter(moved.models().front().name, {.target_modules = {"to_q", "query"}}); });
  // NOLINTEND(bugprone-use-after-move)
  EXPECT_TRUE(at::equal(draw(moved), latents));
}

}  // namespace

TEST_F(Moved, APipelineTakesItsAdaptersAlong) {
  move_with_adapters<StableDiffusionPipeline>("sd");
  move_with_adapters<StableDiffusionXLPipeline>("sdxl");
  move_with_adapters<StableDiffusion3Pipeline>("sd35");
  move_with_adapters<AmusedPipeline>("amused-256");
}

TEST_F(Moved, APipelineThatWasMovedFromSaysSo) {
  use_what_was_moved_from<StableDiffusionPipeline>("sd");
  use_what_was_moved_from<StableDiffusionXLPipeline>("sdxl");
  use_what_was_moved_from<StableDiffusion3Pipeline>("sd35");
  use_what_was_moved_from<AmusedPipeline>("amused-256");
}

TEST_F(Moved, AModelThatWasMovedFromSaysSo) {
  auto config = [](const char* pipeline, const char* component) {
    return tiny::table()["pipelines"][pipeline]["components"][component].dump();
  };
  TemporaryFolder folder;
  // `run` is a call of the model.
  auto move = [&](auto model, auto run) {
    SCOPED_TRACE(model.class_name());
    auto weights = model.state_dict().size();
    auto moved = std::move(model);
    EXPECT_EQ(moved.state_dict().size(), weights);
    EXPECT_NO_THROW(run(moved));
    // NOLINTBEGIN(bugprone-use-after-move)
    error_of(ErrorKind::usage, [&] { run(model); });
    error_of(ErrorKind::usage, [&] { model.class_name(); });
    error_of(ErrorKind::usage, [&] { model.config(); });
    error_of(ErrorKind::usage, [&] { model.dtype(); });
    error_of(ErrorKind::usage, [&] { model.device(); });
    error_of(ErrorKind::usage, [&] { model.state_dict(); });
    error_of(ErrorKind::usage, [&] { model.save_pretrained(folder / "model"); });
    error_of(ErrorKind::usage, [&] { model.added_words(); });
    // NOLINTEND(bugprone-use-after-move)
  };
  auto ids = at::ones({1, 4}, at::kLong);
  move(CLIPTextModel::random(config("sd", "text_encoder"), 0), [&](auto& m) { m(ids); });
  move(CLIPTextModel::random(config("sd", "text_encoder"), 0), [&](auto& m) { m.encode(ids); });
  move(T5EncoderModel::random(config("sd35", "text_encoder_3"), 0), [&](auto& m) { m(ids); });
  move(UNet2DConditionModel::random(config("sd", "unet"), 0), [&](auto& m) {
    m(at::ones({1, 4, 8, 8}), at::scalar_tensor(5), at::ones({1, 4, 16}));
  });
  move(AutoencoderKL::random(config("sd", "vae"), 0), [&](auto& m) { m.decode(at::ones({1, 4, 8, 8})); });
  move(AutoencoderKL::random(config("sd", "vae"), 0), [&](auto& m) { m.encode(at::ones({1, 3, 16, 16})); });
  move(VQModel::random(config("amused-256", "vqvae"), 0), [&](auto& m) { m.decode(at::zeros({1, 4, 4}, at::kLong)); });
}

// A pipeline needs models that belong to no other pipeline, and a scheduler.
TEST_F(Moved, AModelIsOfOnePipelineAlone) {
  auto folder = tiny::folder("sd");
  ModelOptions options{.dtype = at::kFloat};
  auto pipe = StableDiffusionPipeline::from_pretrained(folder, {.dtype = at::kFloat});
  auto make = [&](UNet2DConditionModel unet, std::shared_ptr<const Scheduler> scheduler) {
    return StableDiffusionPipeline({.vae = AutoencoderKL::from_pretrained(folder / "vae", options),
                                    .text_encoder = CLIPTextModel::from_pretrained(folder / "text_encoder", options),
                                    .tokenizer = pipe.tokenizer,
                                    .unet = std::move(unet),
                                    .scheduler = std::move(scheduler)});
  };
  auto fresh = [&] { return UNet2DConditionModel::from_pretrained(folder / "unet", options); };
  auto made = make(fresh(), pipe.scheduler);
  EXPECT_TRUE(at::equal(draw(made), draw(pipe)));
  error_of(ErrorKind::usage, [&] { make(fresh(), nullptr); });
  error_of(ErrorKind::conflict, [&] { make(std::move(pipe.unet), made.scheduler); });
  // Two models of one file are separate: fusing into one does not change the other.
  auto base = states::weights(made);
  auto again = make(fresh(), made.scheduler);
  again.load_lora_weights(states::factors(again), {.adapter_name = "a"});
  again.fuse_lora();
  EXPECT_EQ(states::changed_weight(made, base), "");
}

// After a model is moved out of a pipeline, the model works and the pipeline throws.
TEST_F(Moved, AModelOutOfAPipelineIsWhole) {
  auto pipe = StableDiffusionPipeline::from_pretrained(tiny::folder("sd"), {.dtype = at::kFloat});
  auto in = at::ones({1, 4, 16, 16}), states = at::ones({1, 4, 16});
  auto before = pipe.unet(in, at::scalar_tensor(5), states);
  auto unet = std::move(pipe.unet);
  EXPECT_TRUE(at::equal(unet(in, at::scalar_tensor(5), states), before));
  error_of(ErrorKind::usage, [&] { draw(pipe); });
}

// ---- Modes of gradients ---------------------------------------------------------------------------------------------

namespace {

// libtorch's modes of a thread.
enum class Mode { plain, no_grad, grad, inference, autocast };
constexpr Mode kModes[] = {Mode::plain, Mode::no_grad, Mode::grad, Mode::inference, Mode::autocast};
const char* const kModeNames[] = {"the mode that a thread begins in", "no_grad", "grad", "inference mode", "autocast"};

struct Autocast {
  Autocast() { at::autocast::set_autocast_enabled(at::kCPU, true); }
  ~Autocast() {
    at::autocast::set_autocast_enabled(at::kCPU, false);
    at::autocast::clear_cache();
  }
};

template <class Work>
auto in(Mode mode, Work work) {
  if (mode == Mode::no_grad) {
    at::NoGradGuard guard;
    return work();
  }
  if (mode == Mode::grad) {
    at::AutoGradMode guard(true);
    return work();
  }
  if (mode == Mode::inference) {
    c10::InferenceMode guard;
    return work();
  }
  if (mode == Mode::autocast) {
    Autocast guard;
    return work();
  }
  return work();
}

// The gradients of an adapter's tensors after one call of the denoiser.
std::vector<Tensor> train(StableDiffusionPipeline& pipe, const std::string& name) {
  at::AutoGradMode grad(true);
  auto dtype = pipe.unet.dtype();
  auto out = pipe.unet(at::ones({1, 4, 16, 16}, dtype), at::scalar_tensor(5), at::ones({1, 4, 16}, dtype));
  EXPECT_TRUE(out.requires_grad());
  if (out.requires_grad()) out.to(at::kFloat).square().sum().backward();
  std::vector<Tensor> gradients;
  for (const auto& [key, tensor] : pipe.trainable_parameters("unet", name))
    if (tensor.grad().defined()) gradients.push_back(tensor.grad().clone());
  EXPECT_EQ(gradients.size(), pipe.trainable_parameters("unet", name).size());
  for (const auto& [key, tensor] : pipe.unet.state_dict()) EXPECT_FALSE(tensor.requires_grad()) << key;
  return gradients;
}

CreateAdapterOptions trained(bool dora) {
  return {.adapter_name = "trained",
          .r = 2,
          .target_modules = {"to_q"},
          .init_lora_weights = CreateAdapterOptions::Init::random,
          .use_dora = dora};
}

// Makes every call that changes or uses a pipeline, each in the next mode of `modes`. The results are copies without a
// mode.
std::vector<Tensor> all_calls(const std::vector<Mode>& modes, const PipelineOptions& options) {
  std::vector<Tensor> results;
  size_t next = 0;
  // Names this call and the one before in a failure.
  std::string before, now;
  auto does = [&](const char* what, auto work) {
    auto mode = modes[next++ % modes.size()];
    before = std::exchange(now, std::string(what) + " in " + kModeNames[int(mode)]);
    SCOPED_TRACE(now + " after " + before);
    try {
      return in(mode, work);
    } catch (const c10::Error& error) {
      ADD_FAILURE() << error.what_without_backtrace();
      throw;
    }
  };
  auto keep = [&](const Tensor& t) { results.push_back(t.clone()); };

  auto pipe = does("from_pretrained", [&] {
    return std::make_unique<StableDiffusionPipeline>(
        StableDiffusionPipeline::from_pretrained(tiny::folder("sd"), options));
  });
  auto one = states::factors(*pipe), two = states::factors(*pipe, 2, {"to_v", "fc1"});
  auto look = [&] {
    keep(does("generate_latents", [&] { return draw(*pipe); }));
    for (const auto& [name, tensor] : states::weights(*pipe)) keep(tensor);
  };
  look();
  does("load_lora_weights", [&] { return pipe->load_lora_weights(one, {.adapter_name = "one"}); });
  look();
  does("load_lora_weights", [&] { return pipe->load_lora_weights(two, {.adapter_name = "two"}); });
  does("set_adapters", [&] { return pipe->set_adapters({"one", "two"}, {0.6, -0.3}); });
  look();
  does("fuse_lora", [&] { pipe->fuse_lora({.safe_fusing = true}); });
  look();
  does("unfuse_lora", [&] { pipe->unfuse_lora({.adapter_names = {"two"}}); });
  look();
  does("disable_lora", [&] { pipe->disable_lora(); });
  look();
  does("enable_lora", [&] { pipe->enable_lora(); });
  does("hotswap", [&] { return pipe->load_lora_weights(two, {.adapter_name = "one", .hotswap = true}); });
  look();
  does("unfuse_lora", [&] { pipe->unfuse_lora(); });
  look();
  for (const auto& [key, tensor] : does("get_lora_layers", [&] {
         return pipe->get_lora_layers("unet", Names{"one", "two"}, {0.5, 2});
       }))
    keep(tensor);
  TemporaryFolder folder;
  does("save_lora_weights",
       [&] { StableDiffusionPipeline::save_lora_weights(folder.path(), pipe->get_lora_layers("unet", "one")); });
  does("load_lora_weights", [&] { return pipe->load_lora_weights(folder.path(), {.adapter_name = "saved"}); });
  look();
  does("delete_adapters", [&] { pipe->delete_adapters({"two"}); });
  look();
  keep(does("encode_prompt", [&] { return pipe->encode_prompt("rocket"); }));
  for (bool dora : {false, true}) {
    does("create_adapter", [&] { return pipe->create_adapter("unet", trained(dora)); });
    look();
    SCOPED_TRACE("training after " + now);
    for (const auto& gradient : train(*pipe, "trained")) keep(gradient);
    does("fuse_lora", [&] { pipe->fuse_lora(); });
    look();
    does("unfuse_lora", [&] { pipe->unfuse_lora(); });
    does("delete_adapters", [&] { pipe->delete_adapters({"trained"}); });
  }
  does("unload_lora_weights", [&] { pipe->unload_lora_weights(); });
  look();
  does("save_pretrained", [&] { pipe->save_pretrained(folder / "pipe"); });
  auto again = does("from_pretrained", [&] { return DiffusionPipeline::from_pretrained(folder / "pipe", options); });
  keep(draw(*again));
  return results;
}

void expect_same(const std::vector<Tensor>& got, const std::vector<Tensor>& wanted) {
  ASSERT_EQ(got.size(), wanted.size());
  for (size_t i = 0; i < got.size(); ++i) ASSERT_TRUE(same_bits(got[i], wanted[i])) << i;
}

}  // namespace

// Weights that alias the file, and converted ones.
TEST_F(Modes, EveryCallDoesTheSameInEveryMode) {
  for (auto dtype : {at::kFloat, at::kBFloat16}) {
    PipelineOptions options{.dtype = dtype};
    auto wanted = all_calls({Mode::plain}, options);
    const std::vector<Mode> each[] = {{Mode::plain},
                                      {Mode::no_grad},
                                      {Mode::grad},
                                      {Mode::inference},
                                      {Mode::autocast},
                                      {Mode::inference, Mode::plain},  // changes from call to call
                                      {Mode::plain, Mode::inference},
                                      {Mode::inference, Mode::grad, Mode::no_grad}};
    for (const auto& modes : each) {
      std::string names = at::toString(dtype);
      for (auto mode : modes) names += std::string(", ") + kModeNames[int(mode)];
      SCOPED_TRACE(names);
      try {
        expect_same(all_calls(modes, options), wanted);
      } catch (const std::exception&) {
        ADD_FAILURE() << "and so no more calls";
      }
    }
  }
}

// Opening, fusing and unfusing, each in any mode.
TEST_F(Modes, WhatIsFusedInOneModeLeavesInAnother) {
  for (auto dtype : {at::kFloat, at::kBFloat16}) {
    auto adapter = states::factors(*tiny::open("sd"));
    for (auto opened : {Mode::plain, Mode::inference})
      for (auto fused : {Mode::plain, Mode::inference})
        for (auto unfused : {Mode::plain, Mode::inference}) {
          SCOPED_TRACE(testing::Message()
                       << at::toString(dtype) << ": opened in " << kModeNames[int(opened)] << ", fused in "
                       << kModeNames[int(fused)] << ", unfused in " << kModeNames[int(unfused)]);
          try {
            auto pipe = in(opened, [&] { return tiny::open("sd", dtype); });
            auto base = states::weights(*pipe);
            pipe->load_lora_weights(adapter, {.adapter_name = "a"});
            auto on = draw(*pipe);
            in(fused, [&] { pipe->fuse_lora(); });
            EXPECT_NE(states::changed_weight(*pipe, base), "");
            in(unfused, [&] { pipe->unfuse_lora(); });
            EXPECT_TRUE(at::equal(draw(*pipe), on));
            EXPECT_EQ(states::changed_weight(*pipe, base), "");
          } catch (const c10::Error& error) {
            ADD_FAILURE() << error.what_without_backtrace();
          }
        }
  }
}

// Models without a pipeline, also from inference tensors.
TEST_F(Modes, ModelsOfInferenceModeAreUsedOutsideOfIt) {
  auto config = tiny::table()["pipelines"]["sd"]["components"]["unet"].dump();
  auto run = [](const UNet2DConditionModel& unet) {
    return unet(at::ones({1, 4, 16, 16}), at::scalar_tensor(5), at::ones({1, 4, 16}));
  };
  auto wanted = run(UNet2DConditionModel::random(config, 3));
  auto random = in(Mode::inference, [&] { return UNet2DConditionModel::random(config, 3); });
  EXPECT_TRUE(at::equal(run(random), wanted));
  auto copied = in(Mode::inference, [&] {
    StateDict tensors;
    for (const auto& [name, tensor] : random.state_dict()) tensors.set(name, tensor.clone());
    return UNet2DConditionModel::from_state_dict(config, tensors, {.dtype = at::kFloat});
  });
  EXPECT_TRUE(at::equal(run(copied), wanted));
}

// An adapter of inference tensors, such as a program has that converts files in inference mode.
TEST_F(Modes, AdaptersOfInferenceModeAreLoadedOutsideOfIt) {
  auto pipe = tiny::open("sd");
  auto base = states::weights(*pipe);
  auto adapter = states::factors(*pipe);
  auto of_inference = in(Mode::inference, [&] { return states::factors(*pipe); });
  pipe->load_lora_weights(adapter, {.adapter_name = "a"});
  auto on = draw(*pipe);
  pipe->load_lora_weights(of_inference, {.adapter_name = "b"});
  EXPECT_TRUE(at::equal(draw(*pipe), on));
  pipe->fuse_lora();
  pipe->unfuse_lora();
  EXPECT_TRUE(at::equal(draw(*pipe), on));
  pipe->unload_lora_weights();
  EXPECT_EQ(states::changed_weight(*pipe, base), "");
}

// A call leaves the mode of the caller's thread unchanged.
TEST_F(Modes, ACallLeavesTheThreadsModeAlone) {
  auto pipe = tiny::open("sd");
  auto adapter = states::factors(*pipe);
  for (auto mode : kModes) {
    SCOPED_TRACE(kModeNames[int(mode)]);
    in(mode, [&] {
      bool grad = at::GradMode::is_enabled(), inference = c10::InferenceMode::is_enabled();
      bool autocast = at::autocast::is_autocast_enabled(at::kCPU);
      auto as_before = [&](const char* what) {
        EXPECT_EQ(at::GradMode::is_enabled(), grad) << what;
        EXPECT_EQ(c10::InferenceMode::is_enabled(), inference) << what;
        EXPECT_EQ(at::autocast::is_autocast_enabled(at::kCPU), autocast) << what;
      };
      pipe->load_lora_weights(adapter, {.adapter_name = "a"});
      as_before("load_lora_weights");
      pipe->fuse_lora();
      as_before("fuse_lora");
      auto o = steps(1);
      o.callback_on_step_end = [](const StepEnd&) -> bool { throw std::runtime_error("mine"); };
      EXPECT_THROW(draw(*pipe, o), std::runtime_error);
      as_before("generate_latents");
      pipe->unfuse_lora();
      as_before("unfuse_lora");
      pipe->delete_adapters({"a"});
      as_before("delete_adapters");
    });
  }
}

}  // namespace lora
