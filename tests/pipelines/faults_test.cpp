// Makes the first allocation of a call fail, then the second, and so on until the call succeeds. A call that fails
// throws lora::Error and leaves every bit of the pipeline as it was. The same call then succeeds without faults.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/CPUAllocator.h>

#include <atomic>
#include <cstring>
#include <future>
#include <new>

#include "pipelines/states.h"
#include "pipelines/tiny_pipelines.h"

namespace lora {

namespace {

using Names = std::vector<std::string>;

// ---- An allocator that fails ----------------------------------------------------------------------------------------

enum class Thrown { libtorchs, standard };

// libtorch's CPU allocator. It fails on demand.
class FailingAllocator final : public c10::Allocator {
 public:
  // Never destroyed: tensors may outlive every test.
  static FailingAllocator& get() {
    static auto* one = new FailingAllocator;
    return *one;
  }
  void install() { c10::SetAllocator(c10::kCPU, this, kPriority); }
  void remove() { c10::SetAllocator(c10::kCPU, real_, kPriority); }

  // The n-th allocation from now on fails, on any thread. With `for_good`, all later ones fail too.
  void arm(int64_t n, bool for_good, Thrown thrown) {
    n_ = n;
    for_good_ = for_good;
    thrown_ = thrown;
    count_ = 0;
    failed_ = false;
    armed_ = true;
  }
  // True where an allocation has failed.
  bool disarm() {
    armed_ = false;
    return failed_;
  }

  c10::DataPtr allocate(size_t bytes) override {
    if (bytes > 0 && armed_) {
      auto i = ++count_;
      if (i == n_ || (for_good_ && i > n_)) {
        failed_ = true;
        if (thrown_ == Thrown::standard) throw std::bad_alloc();
        return real_->allocate(size_t(1) << 60);  // too much for any machine, so libtorch's allocator throws
      }
    }
    return real_->allocate(bytes);
  }
  c10::DeleterFnPtr raw_deleter() const override { return real_->raw_deleter(); }
  bool is_simple_data_ptr(const c10::DataPtr& data) const override { return real_->is_simple_data_ptr(data); }
  void copy_data(void* to, const void* from, size_t bytes) const override { real_->copy_data(to, from, bytes); }

 private:
  static constexpr uint8_t kPriority = 200;
  c10::Allocator* const real_ = c10::GetAllocator(c10::kCPU);
  int64_t n_ = 0;
  bool for_good_ = false;
  Thrown thrown_ = Thrown::libtorchs;
  std::atomic<int64_t> count_ = 0;
  std::atomic<bool> armed_ = false, failed_ = false;
};

class Faults : public testing::Test {
 protected:
  void SetUp() override {
    at::set_num_threads(1);
    FailingAllocator::get().install();
  }
  void TearDown() override {
    FailingAllocator::get().disarm();
    FailingAllocator::get().remove();
  }
};

// Allocation n of a call fails, or with `for_good` all from n on. One of the two modes throws as libtorch's allocator
// does, the other as operator new does.
struct Fault {
  int64_t n;
  bool for_good;
  Thrown thrown() const { return (n % 2 == 0) == for_good ? Thrown::libtorchs : Thrown::standard; }
};

// All of the first 24, then fewer and fewer: a call does the same for one layer after another. A sanitizer makes each
// attempt several times as long.
#ifdef __SANITIZE_ADDRESS__
constexpr int64_t kShare = 3;
#else
constexpr int64_t kShare = 8;
#endif
int64_t after(int64_t n) { return n < 24 ? n + 1 : n + n / kShare; }

enum class Outcome { refused, done };

// Returns `refused` where the allocation failed. The test fails unless the exception is Error{out_of_memory}.
template <class Work>
Outcome with(Fault fault, Work&& work) {
  auto& allocator = FailingAllocator::get();
  allocator.arm(fault.n, fault.for_good, fault.thrown());
  try {
    work();
  } catch (const Error& error) {
    allocator.disarm();
    EXPECT_EQ(error.kind(), ErrorKind::out_of_memory) << to_string(error.kind()) << ": " << error.what();
    EXPECT_STREQ(to_string(error.kind()), "out_of_memory");
    return Outcome::refused;
  } catch (const c10::Error& error) {
    allocator.disarm();
    ADD_FAILURE() << "libtorch's own: " << error.what_without_backtrace();
    return Outcome::refused;
  } catch (const std::exception& error) {
    allocator.disarm();
    ADD_FAILURE() << "another exception: " << error.what();
    return Outcome::refused;
  }
  EXPECT_FALSE(allocator.disarm()) << "it passed over an allocation that failed";
  return Outcome::done;
}

// ---- Pipelines ------------------------------------------------------------------------------------------------------

using Open = std::unique_ptr<DiffusionPipeline> (*)();

// The weights alias the file.
std::unique_ptr<DiffusionPipeline> mapped() { return tiny::open("sd"); }

// The weights are converted copies.
std::unique_ptr<DiffusionPipeline> converted() { return tiny::open("sd", at::kBFloat16); }

// The weights are plain copies: tensors at odd addresses of a file cannot alias it.
std::unique_ptr<DiffusionPipeline> in_memory() {
  namespace fs = std::filesystem;
  static const TemporaryFolder folder;
  if (folder.names().empty()) {
    fs::copy(tiny::folder("sd"), folder.path(), fs::copy_options::recursive);
    for (const auto& entry : fs::recursive_directory_iterator(folder.path())) {
      if (entry.path().extension() != ".safetensors") continue;
      std::ifstream in(entry.path(), std::ios::binary);
      std::string bytes{std::istreambuf_iterator<char>(in), {}};
      uint64_t header = 0;
      std::memcpy(&header, bytes.data(), sizeof header);
      bytes.insert(sizeof header + header, 1, ' ');
      ++header;
      std::memcpy(bytes.data(), &header, sizeof header);
      std::ofstream(entry.path(), std::ios::binary) << bytes;
    }
  }
  return DiffusionPipeline::from_pretrained(folder.path(), {.dtype = at::kFloat});
}

constexpr std::pair<const char*, Open> kOpens[] = {
    {"mapped", mapped}, {"converted", converted}, {"in memory", in_memory}};

Tensor draw(const DiffusionPipeline& pipe, const CallOptions& o = {.num_inference_steps = 1, .seed = {0}}) {
  return pipe.generate_latents("red qzv", o);
}

// ---- Adapters of every kind -----------------------------------------------------------------------------------------

// Makes the tensors of one layer, under the suffixes of their names.
using Make = std::vector<std::pair<const char*, Tensor>> (*)(const Tensor& weight);

Tensor small(at::IntArrayRef shape) { return at::randn(shape) * 0.1; }

// `out × in` of a layer's matrix.
int64_t out_of(const Tensor& w) { return w.size(0); }
int64_t in_of(const Tensor& w) { return w.size(1); }

// An adapter on all layers whose names end in one of these.
StateDict adapter(const DiffusionPipeline& pipe, const Names& ends, Make make, uint64_t seed = 1) {
  at::manual_seed(seed);
  StateDict tensors;
  for (const auto& [component, model] : pipe.models())
    for (const auto& [name, weight] : model->state_dict()) {
      auto is_target = [&](auto& end) { return name.ends_with(end + ".weight"); };
      if (std::none_of(ends.begin(), ends.end(), is_target)) continue;
      auto path = component + "." + name.substr(0, name.rfind('.'));
      for (auto& [end, tensor] : make(weight)) tensors.set(path + "." + end, tensor);
    }
  return tensors;
}

const Names kLinear{"to_q", "q_proj"};

StateDict peft(const DiffusionPipeline& pipe, uint64_t seed = 1) {
  return adapter(
      pipe, kLinear,
      [](const Tensor& w) -> std::vector<std::pair<const char*, Tensor>> {
        return {{"lora_A.weight", small({2, in_of(w)})}, {"lora_B.weight", small({out_of(w), 2})}};
      },
      seed);
}

// On some layers of `peft`, and on others.
StateDict other(const DiffusionPipeline& pipe) {
  return adapter(
      pipe, {"to_q", "to_v", "fc1"},
      [](const Tensor& w) -> std::vector<std::pair<const char*, Tensor>> {
        return {{"lora_A.weight", small({3, in_of(w)})}, {"lora_B.weight", small({out_of(w), 3})}};
      },
      2);
}

// Kohya's names, with alphas, for convolutions and linear layers.
StateDict kohya(const DiffusionPipeline& pipe) {
  auto plain = adapter(pipe, {"to_q", "q_proj", "conv1"}, [](const Tensor& w) {
    auto down = w.sizes().vec(), up = std::vector<int64_t>(down.size(), 1);
    up[0] = std::exchange(down[0], 2);
    up[1] = 2;
    return std::vector<std::pair<const char*, Tensor>>{
        {"lora_down.weight", small(down)}, {"lora_up.weight", small(up)}, {"alpha", at::scalar_tensor(1.0)}};
  });
  StateDict flat;
  for (const auto& [key, tensor] : plain) {
    auto dot = key.find('.'), end = key.find(key.ends_with(".alpha") ? ".alpha" : ".lora_");
    auto path = key.substr(dot + 1, end - dot - 1);
    std::replace(path.begin(), path.end(), '.', '_');
    flat.set((key.starts_with("unet.") ? "lora_unet_" : "lora_te_") + path + key.substr(end), tensor);
  }
  return flat;
}

StateDict dora(const DiffusionPipeline& pipe) {
  return adapter(pipe, kLinear, [](const Tensor& w) -> std::vector<std::pair<const char*, Tensor>> {
    return {{"lora_A.weight", small({2, in_of(w)})},
            {"lora_B.weight", small({out_of(w), 2})},
            {"lora_magnitude_vector", at::rand({out_of(w)}) + 0.5}};
  });
}

StateDict loha(const DiffusionPipeline& pipe) {
  return adapter(pipe, kLinear, [](const Tensor& w) -> std::vector<std::pair<const char*, Tensor>> {
    return {{"hada_w1_a", small({out_of(w), 2})},
            {"hada_w1_b", small({2, in_of(w)})},
            {"hada_w2_a", small({out_of(w), 2})},
            {"hada_w2_b", small({2, in_of(w)})}};
  });
}

StateDict lokr(const DiffusionPipeline& pipe) {
  return adapter(pipe, kLinear, [](const Tensor& w) -> std::vector<std::pair<const char*, Tensor>> {
    return {{"lokr_w1", small({2, 2})}, {"lokr_w2", small({out_of(w) / 2, in_of(w) / 2})}};
  });
}

StateDict oft(const DiffusionPipeline& pipe) {
  return adapter(pipe, kLinear, [](const Tensor& w) -> std::vector<std::pair<const char*, Tensor>> {
    return {{"oft_blocks", small({out_of(w) / 4, 4, 4})}};
  });
}

// Differences of whole weights and biases, of convolutions, linear layers and norms.
StateDict full(const DiffusionPipeline& pipe) {
  return adapter(pipe, {"conv1", "q_proj", "norm1", "layer_norm1"}, [](const Tensor& w) {
    return std::vector<std::pair<const char*, Tensor>>{{"diff", small(w.sizes())}, {"diff_b", small({w.size(0)})}};
  });
}

// Factors, with a word for prompts in the same file.
StateDict with_word(const DiffusionPipeline& pipe) {
  auto file = peft(pipe);
  auto width = pipe.models().back().model->state_dict().at("text_model.final_layer_norm.weight").size(0);
  file.set("bundle_emb.qzv.clip_l", small({2, width}));
  return file;
}

using MakeFile = StateDict (*)(const DiffusionPipeline& pipe);
constexpr std::pair<const char*, MakeFile> kFiles[] = {
    {"PEFT", [](const DiffusionPipeline& pipe) { return peft(pipe); }},
    {"kohya, with convolutions", kohya},
    {"DoRA", dora},
    {"LoHa", loha},
    {"LoKr", lokr},
    {"OFT", oft},
    {"differences", full},
    {"a word", with_word}};

// ---- What is tried --------------------------------------------------------------------------------------------------

// A call, and what to load before it. Files are written before the first fault.
struct Trial {
  std::string name;
  std::function<void(DiffusionPipeline&)> prepare, call;
  bool can_draw = true;  // afterwards
};

struct Result {
  states::State state;
  Tensor latents;
};

Result result(const DiffusionPipeline& pipe, const Trial& trial) {
  return {states::state(pipe), trial.can_draw ? draw(pipe) : Tensor()};
}

void expect_result(const DiffusionPipeline& pipe, const Trial& trial, const Result& wanted) {
  EXPECT_EQ(states::difference(pipe, wanted.state), "");
  if (!trial.can_draw) return;
  EXPECT_TRUE(at::equal(draw(pipe), wanted.latents)) << "the latents differ";
}

void expect_whole_or_nothing(const Trial& trial, Open open) {
  auto clean = open();
  trial.prepare(*clean);
  trial.call(*clean);
  auto wanted = result(*clean, trial);
  for (bool for_good : {false, true}) {
    auto pipe = open();
    trial.prepare(*pipe);
    auto before = states::state(*pipe);
    auto latents = draw(*pipe);
    auto number = pipe->lora_snapshot();
    int tried = 0;
    for (int64_t n = 1;; n = after(n), ++tried) {
      SCOPED_TRACE(testing::Message() << trial.name << ": allocation " << n << (for_good ? " and all after it" : ""));
      if (with({n, for_good}, [&] { trial.call(*pipe); }) == Outcome::done) break;
      EXPECT_EQ(states::difference(*pipe, before), "") << "after a failure";
      EXPECT_EQ(pipe->lora_snapshot(), number);
      // An image shows changes that the weights and the lists do not show. Drawing is slow, so only each eighth failure
      // draws.
      if (tried % 8 == 0) {
        EXPECT_TRUE(at::equal(draw(*pipe), latents)) << "after a failure the latents differ";
      }
      if (testing::Test::HasFailure()) return;  // one failure is enough
    }
    SCOPED_TRACE(trial.name + ": after all failures");
    EXPECT_EQ(pipe->lora_snapshot(), number + 1);
    expect_result(*pipe, trial, wanted);
    // Undoing the call leaves no trace of the failures.
    clean->enable_lora();
    clean->unfuse_lora();
    clean->unload_lora_weights();
    pipe->enable_lora();
    pipe->unfuse_lora();
    pipe->unload_lora_weights();
    EXPECT_EQ(states::difference(*pipe, states::state(*clean)), "") << "after undoing";
  }
}

// On every kind of weights.
void try_all(const std::vector<Trial>& trials) {
  for (const auto& [name, open] : kOpens) {
    SCOPED_TRACE(name);
    for (const auto& trial : trials) expect_whole_or_nothing(trial, open);
  }
}

const auto nothing = [](DiffusionPipeline&) {};

// The files fit every pipeline of these shapes, in any dtype.
const DiffusionPipeline& shapes() {
  static const auto pipe = tiny::open("sd");
  return *pipe;
}

auto load(const StateDict& file, const std::string& name) {
  return [=](DiffusionPipeline& pipe) { pipe.load_lora_weights(file, {.adapter_name = name}); };
}

auto hotswap(const StateDict& file, const std::string& name) {
  return [=](DiffusionPipeline& pipe) { pipe.load_lora_weights(file, {.adapter_name = name, .hotswap = true}); };
}

// Loads `one` and `two`. Both are active.
void load_two(DiffusionPipeline& pipe) {
  pipe.load_lora_weights(peft(shapes()), {.adapter_name = "one"});
  pipe.load_lora_weights(other(shapes()), {.adapter_name = "two"});
  pipe.set_adapters({"one", "two"}, {0.6, -0.3});
}

void fuse_one(DiffusionPipeline& pipe) {
  load_two(pipe);
  pipe.fuse_lora({.lora_scale = 0.5, .adapter_names = {"one"}});
}

void fuse_two(DiffusionPipeline& pipe) {
  load_two(pipe);
  pipe.fuse_lora();
}

}  // namespace

// ---- Calls that change a pipeline -----------------------------------------------------------------------------------

TEST_F(Faults, FilesThatAreReadAreLoadedOrNot) {
  TemporaryFolder folder;
  save_safetensors(kohya(shapes()), folder / "kohya.safetensors");
  save_pickle(kohya(shapes()), folder / "kohya.pt");
  std::vector<Trial> trials;
  for (const char* name : {"kohya.safetensors", "kohya.pt"})
    trials.push_back({name, nothing, [&folder, name](DiffusionPipeline& pipe) {
                        pipe.load_lora_weights(folder / name, {.adapter_name = "a"});
                      }});
  for (const auto& trial : trials) expect_whole_or_nothing(trial, mapped);
}

TEST_F(Faults, LoadsHappenOrDoNot) {
  std::vector<Trial> trials;
  for (const auto& [name, make] : kFiles) trials.push_back({name, nothing, load(make(shapes()), "a")});
  auto file = peft(shapes());
  trials.push_back({"beside others", load_two, load(file, "a")});
  trials.push_back({"beside what is fused", fuse_two, load(file, "a")});
  trials.push_back({"one component of another adapter", load_two, [=](DiffusionPipeline& pipe) {
                      LoadIntoTextEncoderOptions into;
                      into.adapter_name = "a";
                      into.lora_scale = 0.5;
                      auto& sd = dynamic_cast<StableDiffusionPipeline&>(pipe);
                      sd.load_lora_into_text_encoder(file, {}, sd.text_encoder, into);
                    }});
  try_all(trials);
}

TEST_F(Faults, HotswapsHappenOrDoNot) {
  auto file = kohya(shapes());
  std::vector<Trial> trials{{"active", load_two, hotswap(file, "one")},
                            {"fused", fuse_one, hotswap(file, "one")},
                            {"one of two that are fused", fuse_two, hotswap(file, "two")}};
  try_all(trials);
  for (const auto& [name, make] : kFiles)
    expect_whole_or_nothing({std::string("fused, ") + name, fuse_one, hotswap(make(shapes()), "one")}, mapped);
}

TEST_F(Faults, WeightsAreSetOrNot) {
  auto by_block = LoraScale{{"unet", {{"down", 0.2}, {"up", 0.7}}}, {"text_encoder", 0.5}};
  try_all({{"mixed", load_two,
            [](auto& pipe) {
              pipe.set_adapters({"two", "one"}, {0.3, 0.9});
            }},
           {"by block", load_two,
            [=](auto& pipe) {
              pipe.set_adapters({"one", "two"}, {by_block, 1});
            }},
           {"while one is fused", fuse_one, [](auto& pipe) { pipe.set_adapters({"two"}, {0.9}); }},
           {"none", load_two, [](auto& pipe) { pipe.set_adapters({}); }}});
}

TEST_F(Faults, AdaptersAreFusedOrNot) {
  std::vector<Trial> trials{
      {"both", load_two, [](auto& pipe) { pipe.fuse_lora(); }},
      {"at a scale", load_two, [](auto& pipe) { pipe.fuse_lora({.lora_scale = 0.7}); }},
      {"with a limit of the loss", load_two, [](auto& pipe) { pipe.fuse_lora({.max_loss = 0.5}); }},
      {"again at another", fuse_one, [](auto& pipe) { pipe.fuse_lora({.lora_scale = 0.9, .adapter_names = {"one"}}); }},
      {"on top of another", fuse_one, [](auto& pipe) { pipe.fuse_lora({.adapter_names = {"two"}}); }},
      {"safely", load_two, [](auto& pipe) { pipe.fuse_lora({.safe_fusing = true}); }},
      {"one component", load_two, [](auto& pipe) { pipe.fuse_lora({.components = {"text_encoder"}}); }}};
  for (const auto& [name, make] : kFiles)
    trials.push_back({name, load(make(shapes()), "a"), [](auto& pipe) { pipe.fuse_lora(); }});
  try_all(trials);
}

TEST_F(Faults, WhatIsFusedLeavesOrStays) {
  std::vector<Trial> trials{{"all", fuse_two, [](auto& pipe) { pipe.unfuse_lora(); }},
                            {"one of two", fuse_two, [](auto& pipe) { pipe.unfuse_lora({.adapter_names = {"one"}}); }},
                            {"one component", fuse_two, [](auto& pipe) { pipe.unfuse_lora({.components = {"unet"}}); }},
                            {"after unloading",
                             [](auto& pipe) {
                               fuse_two(pipe);
                               pipe.unload_lora_weights();
                             },
                             [](auto& pipe) { pipe.unfuse_lora(); }}};
  for (const auto& [name, make] : kFiles) {
    auto file = make(shapes());
    trials.push_back({name,
                      [=](DiffusionPipeline& pipe) {
                        pipe.load_lora_weights(file, {.adapter_name = "a"});
                        pipe.fuse_lora();
                      },
                      [](auto& pipe) { pipe.unfuse_lora(); }});
  }
  try_all(trials);
}

TEST_F(Faults, AdaptersAreDeletedOrStay) {
  auto words = with_word(shapes());
  try_all({{"active", load_two, [](auto& pipe) { pipe.delete_adapters({"one"}); }},
           {"fused", fuse_one, [](auto& pipe) { pipe.delete_adapters({"one"}); }},
           {"both, one fused", fuse_one,
            [](auto& pipe) {
              pipe.delete_adapters({"one", "two"});
            }},
           {"one of two that are fused", fuse_two, [](auto& pipe) { pipe.delete_adapters({"two"}); }},
           {"with a word", load(words, "one"), [](auto& pipe) { pipe.delete_adapters({"one"}); }},
           {"unloaded", load_two, [](auto& pipe) { pipe.unload_lora_weights(); }},
           {"unloaded while fused", fuse_two, [](auto& pipe) { pipe.unload_lora_weights(); }}});
}

TEST_F(Faults, LorasAreSwitchedOrNot) {
  auto off = [](auto prepare) {
    return [=](DiffusionPipeline& pipe) {
      prepare(pipe);
      pipe.disable_lora();
    };
  };
  try_all({{"off", load_two, [](auto& pipe) { pipe.disable_lora(); }},
           {"on", off(load_two), [](auto& pipe) { pipe.enable_lora(); }},
           {"off while one is fused", fuse_one, [](auto& pipe) { pipe.disable_lora(); }},
           {"on while two are fused", off(fuse_two), [](auto& pipe) { pipe.enable_lora(); }}});
}

TEST_F(Faults, AdaptersAreMadeOrNot) {
  auto make = [](bool dora) {
    return [=](DiffusionPipeline& pipe) {
      pipe.create_adapter("unet", {.adapter_name = "a",
                                   .r = 2,
                                   .target_modules = {"to_q", "conv1"},
                                   .init_lora_weights = CreateAdapterOptions::Init::random,
                                   .use_dora = dora});
    };
  };
  try_all(
      {{"LoRA", load_two, make(false)}, {"DoRA", nothing, make(true)}, {"beside what is fused", fuse_one, make(true)}});
}

// To the meta device. A run refuses adapters on it.
TEST_F(Faults, AdaptersAreMovedOrNot) {
  auto inactive = [](DiffusionPipeline& pipe) {
    load_two(pipe);
    pipe.set_adapters({"one"});
  };
  try_all({{"inactive", inactive, [](auto& pipe) { pipe.set_lora_device({"two"}, at::kMeta); }},
           {"active", load_two, [](auto& pipe) { pipe.set_lora_device({"two"}, at::kMeta); }, /*can_draw=*/false}});
}

// Two threads rebuild weights together. Either may meet the fault.
TEST_F(Faults, FaultsOnOtherThreadsAreTheCallsOwn) {
  at::set_num_threads(2);
  Trial fuse{"fuse_lora", load(full(shapes()), "a"), [](auto& pipe) { pipe.fuse_lora(); }, /*can_draw=*/false};
  Trial load_many{"load_lora_weights", nothing, load(lokr(shapes()), "a"), /*can_draw=*/false};
  for (const auto& trial : {fuse, load_many}) {
    auto pipe = mapped();
    trial.prepare(*pipe);
    auto before = states::state(*pipe);
    for (int64_t n = 1; n < 200; n = after(n)) {
      SCOPED_TRACE(testing::Message() << trial.name << ": allocation " << n);
      if (with({n, false}, [&] { trial.call(*pipe); }) == Outcome::done) break;
      EXPECT_EQ(states::difference(*pipe, before), "");
      if (HasFailure()) return;
    }
  }
}

// ---- Calls that change nothing --------------------------------------------------------------------------------------

namespace {

void expect_same(const StateDict& got, const StateDict& wanted) {
  ASSERT_EQ(got.size(), wanted.size());
  for (const auto& [key, tensor] : wanted) EXPECT_TRUE(same_bits(got.at(key), tensor)) << key;
}

// Faults of a call that only reads, until it succeeds. `next` gives the allocation to try after n.
template <class Call>
void read_with_faults(const char* name, const DiffusionPipeline& pipe, Call call, int64_t (*next)(int64_t) = after) {
  auto before = states::state(pipe);
  auto number = pipe.lora_snapshot();
  for (bool for_good : {false, true})
    for (int64_t n = 1;; n = next(n)) {
      SCOPED_TRACE(testing::Message() << name << ": allocation " << n << (for_good ? " and all after it" : ""));
      bool done = with({n, for_good}, call) == Outcome::done;
      EXPECT_EQ(states::difference(pipe, before), "");
      EXPECT_EQ(pipe.lora_snapshot(), number);
      if (done || testing::Test::HasFailure()) break;
    }
}

}  // namespace

TEST_F(Faults, LayersAreReadOrNot) {
  for (const auto& [name, open] : kOpens) {
    SCOPED_TRACE(name);
    auto pipe = open();
    fuse_one(*pipe);
    auto one = pipe->get_lora_layers("unet", "one"),
         both = pipe->get_lora_layers("unet", Names{"one", "two"}, {0.5, 2});
    StateDict got;
    read_with_faults("get_lora_layers", *pipe, [&] { got = pipe->get_lora_layers("unet", "one"); });
    expect_same(got, one);
    read_with_faults("several", *pipe, [&] { got = pipe->get_lora_layers("unet", Names{"one", "two"}, {0.5, 2}); });
    expect_same(got, both);
    auto file = kohya(shapes());
    read_with_faults("match_lora", *pipe, [&] { pipe->match_lora(file); });
    read_with_faults("lora_state_dict", *pipe, [&] { pipe->lora_state_dict(file); });
    read_with_faults("encode_prompt", *pipe,
                     [&] { dynamic_cast<StableDiffusionPipeline&>(*pipe).encode_prompt("red apple"); });
  }
}

// An existing file stays unchanged, and no half of a new one is left.
TEST_F(Faults, FilesAreWrittenOrNot) {
  auto pipe = converted();
  load_two(*pipe);
  pipe->load_lora_weights(kohya(shapes()), {.adapter_name = "with alphas"});  // a pickle cannot hold alphas
  auto old = pipe->get_lora_layers("unet", "two");
  for (bool safe : {true, false}) {
    TemporaryFolder folder;
    auto save = [&](const StateDict& unet) {
      StableDiffusionPipeline::save_lora_weights(folder.path(), unet, {}, {.safe_serialization = safe});
    };
    auto layers = pipe->get_lora_layers("unet", safe ? "with alphas" : "one");
    save(old);
    auto names = folder.names();
    auto before = load_state_dict(folder / names.front());
    for (int64_t n = 1;; ++n) {
      SCOPED_TRACE(testing::Message() << "allocation " << n);
      if (with({n, false}, [&] { save(layers); }) == Outcome::done) break;
      EXPECT_EQ(folder.names(), names);
      expect_same(load_state_dict(folder / names.front()), before);
      if (HasFailure()) return;
    }
    EXPECT_EQ(folder.names(), names);
    EXPECT_FALSE(same_bits(load_state_dict(folder / names.front()).begin()->second, before.begin()->second));
  }
}

namespace {

// A call makes thousands of allocations.
int64_t far_after(int64_t n) { return n < 8 ? n + 1 : n + n / 4; }

}  // namespace

class FaultyCalls : public Faults, public testing::WithParamInterface<std::string> {};

TEST_P(FaultyCalls, TheNextCallIsAsIfNothingHadBeen) {
  auto pipe = tiny::open(GetParam());
  pipe->load_lora_weights(states::factors(*pipe), {.adapter_name = "a"});
  pipe->load_lora_weights(states::factors(*pipe, 2), {.adapter_name = "b"});
  pipe->set_adapters({"a"});
  std::vector<std::pair<const char*, CallOptions>> calls(1, {"the active ones", {}});
  CallOptions own, each;
  own.adapters = {{.name = "b", .weight = 0.5, .mask = at::ones({8, 8})}};
  calls.emplace_back("the call's own", own);
  each.num_images_per_prompt = 2;
  each.adapters_per_image = {{{.name = "a"}}, {{.name = "b"}}};
  calls.emplace_back("each image's own", each);
  CallOptions picture;
  picture.image = picture.mask_image = {tiny::picture("faults", {32, 32})};
  picture.strength = 1;
  calls.emplace_back("of a picture", picture);
  for (auto& [name, o] : calls) {
    o.num_inference_steps = 1;
    o.seed = {0};
    auto wanted = draw(*pipe, o);
    Tensor got;
    read_with_faults(
        name, *pipe, [&] { got = draw(*pipe, o); }, far_after);
    EXPECT_TRUE(at::equal(got, wanted)) << name;
    EXPECT_TRUE(at::equal(draw(*pipe, o), wanted)) << name;
  }
  auto latents = draw(*pipe);
  read_with_faults(
      "decode_latents", *pipe, [&] { pipe->decode_latents(latents); }, far_after);
}

INSTANTIATE_TEST_SUITE_P(Pipelines, FaultyCalls, testing::Values("sd", "sdxl", "sd3", "amused-256"), tiny::test_name);

// After a writer has failed, other threads can draw and write.
TEST_F(Faults, AWriterThatFailedHoldsNobodyUp) {
  auto pipe = mapped();
  load_two(*pipe);
  auto active = draw(*pipe);
  EXPECT_EQ(with({1, true}, [&] { pipe->fuse_lora(); }), Outcome::refused);
  auto other = std::async(std::launch::async, [&] {
    at::set_num_threads(1);
    auto latents = draw(*pipe);
    pipe->fuse_lora();
    pipe->unfuse_lora();
    return latents;
  });
  EXPECT_TRUE(at::equal(other.get(), active));
}

// A failed opening leaves no trace: the next one succeeds.
TEST_F(Faults, PipelinesAreOpenedOrNot) {
  for (const auto& [name, open] : kOpens) {
    SCOPED_TRACE(name);
    auto wanted = states::weights(*open());
    std::unique_ptr<DiffusionPipeline> pipe;
    for (int64_t n = 1;; n = far_after(n))
      if (with({n, false}, [&] { pipe = open(); }) == Outcome::done || HasFailure()) break;
    ASSERT_TRUE(pipe);
    EXPECT_EQ(states::changed_weight(*pipe, wanted), "");
  }
}

}  // namespace lora
