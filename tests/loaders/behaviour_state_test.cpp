// The same for hotswap, devices and training.
#include <malloc.h>

#include <fstream>

#include "loaders/behaviour.h"

namespace lora {

TEST(Hotswap, ComponentsWithoutLayersAreNotListed) {
  TinyPipeline pipe;
  pipe.load_lora_weights(kKohya, {.adapter_name = "a"});
  pipe.load_lora_weights(kUnetOnly, {.adapter_name = "a", .hotswap = true});
  EXPECT_EQ(pipe.get_list_adapters(), (Listing{{"unet", {"a"}}}));
}

TEST(Delete, LeavesABakedAdapterOfTheSameName) {
  TinyPipeline pipe;
  auto weights = pipe.weights();
  pipe.load_lora_weights(kKohya, {.adapter_name = "a"});
  pipe.fuse_lora();
  pipe.unload_lora_weights();
  auto baked = run(pipe);
  pipe.load_lora_weights(kPeft, {.adapter_name = "a"});
  EXPECT_TRUE(pipe.set_adapters({"a"}).empty()) << "this one is not fused";
  pipe.delete_adapters({"a"});
  expect_same(run(pipe), baked);
  pipe.unfuse_lora();
  expect_same_weights(pipe.weights(), weights);
}

TEST(Hotswap, NewComponentsOfAFusedAdapterAreFused) {
  TinyPipeline pipe, wanted;
  wanted.load_lora_weights(kKohya, {.adapter_name = "a"});
  wanted.fuse_lora({.lora_scale = 0.8});
  pipe.load_lora_weights(kUnetOnly, {.adapter_name = "a"});
  pipe.fuse_lora({.lora_scale = 0.8});
  pipe.load_lora_weights(kKohya, {.adapter_name = "a", .hotswap = true});
  expect_same(run(pipe), run(wanted));
  expect_same_weights(pipe.weights(), wanted.weights());
}

TEST(Hotswap, TheUsersWeightIsForNewComponentsToo) {
  TinyPipeline pipe, wanted;
  wanted.load_lora_weights(kKohya, {.adapter_name = "a"});
  wanted.set_adapters({"a"}, {0.5});
  pipe.load_lora_weights(kUnetOnly, {.adapter_name = "a"});
  pipe.set_adapters({"a"}, {0.5});
  pipe.load_lora_weights(kKohya, {.adapter_name = "a", .hotswap = true});
  expect_same(run(pipe), run(wanted));
}

TEST(Hotswap, WhatCannotBeFusedIsRefusedWhileFused) {
  auto biased = random_lora("unet", {.r = 2, .lora_alpha = 2, .target_modules = {"attn1.to_q"}, .lora_bias = true});
  for (const auto& [key, tensor] : biased)
    if (key.ends_with(".bias")) tensor.fill_(0.5);
  TinyPipeline pipe;
  pipe.load_lora_weights(kUnetOnly, {.adapter_name = "a"});
  pipe.fuse_lora();
  auto fused = run(pipe);
  auto message =
      error_of(ErrorKind::unsupported, [&] { pipe.load_lora_weights(biased, {.adapter_name = "a", .hotswap = true}); });
  EXPECT_TRUE(contains(message, "attn1.to_q")) << message;
  expect_same(run(pipe), fused);
}

// ---- Hotswap --------------------------------------------------------------------------------------------------------

TEST(Behaviour, S50to54_HotswapEqualsAFreshLoad) {
  // Linear layers, convolutions, both; the same rank, a larger one, a smaller one.
  for (const char* targets : {".*to_[qk]", ".*conv[12]", ".*(to_[qk]|conv[12])"})
    for (int64_t rank : {4, 7, 2}) {
      SCOPED_TRACE(std::string(targets) + ", rank " + std::to_string(rank));
      auto old = random_lora("unet", {.r = 4, .lora_alpha = 8, .target_modules_regex = targets, .seed = 1});
      auto fresh = random_lora("unet", {.r = rank, .lora_alpha = 3, .target_modules_regex = targets, .seed = 2});
      auto before = copies(fresh);
      TinyPipeline pipe, wanted;
      pipe.load_lora_weights(old, {.adapter_name = "a"});
      auto was = run(pipe);
      auto report = pipe.load_lora_weights(fresh, {.adapter_name = "a", .hotswap = true});
      EXPECT_EQ(report.adapter_name, "a");
      wanted.load_lora_weights(fresh, {.adapter_name = "a"});
      expect_differ(run(pipe).unet, was.unet);
      expect_same(run(pipe), run(wanted));
      for (double weight : {0.3, 1.0}) {  // by the new alpha and rank
        pipe.set_adapters({"a"}, {weight});
        wanted.set_adapters({"a"}, {weight});
        expect_same(run(pipe), run(wanted));
      }
      expect_untouched(fresh, before);
    }
}

TEST(Behaviour, S59_HotswapMayBringMoreLayersOrFewer) {
  TinyPipeline wanted;
  auto base = wanted.run("unet");
  auto few = random_lora("unet", {.r = 2, .lora_alpha = 2, .target_modules = {"to_q"}});
  auto many = random_lora("unet", {.r = 3, .lora_alpha = 1, .target_modules = {"to_k", "to_q", "conv1"}});
  for (auto [from, to] : {std::pair{&few, &many}, {&many, &few}}) {
    TinyPipeline pipe;
    pipe.load_lora_weights(*from, {.adapter_name = "a"});
    pipe.load_lora_weights(*to, {.adapter_name = "a", .hotswap = true});
    TinyPipeline fresh;
    fresh.load_lora_weights(*to);
    EXPECT_TRUE(at::equal(pipe.run("unet"), fresh.run("unet")));
    EXPECT_EQ(pipe.get_lora_layers("unet", "a").size(), to->size());
  }
}

TEST(Hotswap, KeepsTheUsersWeightAndActivity) {
  TinyPipeline pipe;
  LoraScale blocks{{"unet", {{"down", 0.3}, {"mid", 0.0}}}, {"text_encoder", 0.6}};
  pipe.load_lora_weights(kPeft, {.adapter_name = "wanted"});
  pipe.set_adapters({"wanted"}, {blocks});
  auto wanted = run(pipe);
  pipe.load_lora_weights(kKohya, {.adapter_name = "a"});
  pipe.set_adapters({"a"}, {blocks});
  pipe.load_lora_weights(kPeft, {.adapter_name = "a", .hotswap = true});
  expect_same(run(pipe), wanted);
  // One that is not active stays so.
  pipe.load_lora_weights(TinyPipeline::file("peft_rslora.safetensors"), {.adapter_name = "other"});
  auto other = run(pipe);
  pipe.load_lora_weights(kKohya, {.adapter_name = "a", .hotswap = true});
  EXPECT_EQ(pipe.get_active_adapters(), Names{"other"});
  expect_same(run(pipe), other);
}

TEST(Hotswap, RewritesWhatIsFused) {
  for (const char* name : {"peft", "peft_mixed_ranks", "kohya_conv", "peft_dora", "kohya_te_only"}) {
    SCOPED_TRACE(name);
    auto file = TinyPipeline::file(name + std::string(".safetensors"));
    TinyPipeline pipe, wanted;
    auto weights = pipe.weights();
    pipe.load_lora_weights(kKohya, {.adapter_name = "a"});
    pipe.set_adapters({"a"}, {0.5});
    pipe.fuse_lora({.lora_scale = 0.8});
    pipe.load_lora_weights(file, {.adapter_name = "a", .hotswap = true});
    EXPECT_EQ(pipe.fused_loras(), Names{"a"});
    wanted.load_lora_weights(file, {.adapter_name = "a"});
    wanted.set_adapters({"a"}, {0.5});
    wanted.fuse_lora({.lora_scale = 0.8});
    expect_same_weights(pipe.weights(), wanted.weights());
    pipe.unfuse_lora();
    expect_same_weights(pipe.weights(), weights);
    wanted.unfuse_lora();
    expect_same(run(pipe), run(wanted));
  }
}

TEST(Hotswap, TakesComponentsAwayAndAddsThem) {
  TinyPipeline pipe, wanted;
  pipe.load_lora_weights(kKohya, {.adapter_name = "a"});
  auto full = run(pipe);
  pipe.load_lora_weights(kUnetOnly, {.adapter_name = "a", .hotswap = true});
  wanted.load_lora_weights(kUnetOnly);
  expect_same(run(pipe), run(wanted));
  pipe.load_lora_weights(kKohya, {.adapter_name = "a", .hotswap = true});
  expect_same(run(pipe), full);
}

TEST(Hotswap, MistakesChangeNothing) {
  TinyPipeline pipe;
  pipe.load_lora_weights(kKohya, {.adapter_name = "a"});
  auto before = run(pipe);
  EXPECT_TRUE(contains(
      error_of(ErrorKind::not_found, [&] { pipe.load_lora_weights(kPeft, {.adapter_name = "b", .hotswap = true}); }),
      "\"b\""));
  error_of(ErrorKind::usage, [&] { pipe.load_lora_weights(kPeft, {.hotswap = true}); });
  auto tensors = load_state_dict(kPeft);
  tensors.set("text_encoder.encoder.layers.1.self_attn.q_proj.lora_A.weight", at::ones({4, 17}));
  error_of(ErrorKind::bad_shape, [&] { pipe.load_lora_weights(tensors, {.adapter_name = "a", .hotswap = true}); });
  expect_same(run(pipe), before);
  auto lora = pipe.lora_state_dict(kPeft);
  error_of(ErrorKind::not_found,
           [&] { pipe.load_lora_into_unet(lora.state_dict, {}, pipe.unet, {.adapter_name = "b", .hotswap = true}); });
  pipe.load_lora_into_unet(lora.state_dict, {}, pipe.unet, {.adapter_name = "a", .hotswap = true});
  expect_differ(pipe.run("unet"), before.unet);
  EXPECT_TRUE(at::equal(pipe.run("text_encoder"), before.text));
}

// ---- Devices --------------------------------------------------------------------------------------------------------

TEST(Behaviour, S73to75_OnlyTheNamedAdapterMoves) {
  auto on = [](const TinyPipeline& pipe, const std::string& name, Device device) {
    size_t tensors = 0;
    for (const auto& [key, tensor] : pipe.get_lora_layers("unet", name))
      if (!key.ends_with(".alpha")) {
        EXPECT_EQ(tensor.device(), device) << name << " " << key;
        ++tensors;
      }
    EXPECT_GT(tensors, 0u);
  };
  TinyPipeline pipe;
  pipe.load_lora_weights(TinyPipeline::file("peft_dora.safetensors"), {.adapter_name = "dora"});
  pipe.load_lora_weights(random_lora("unet", {.target_modules_regex = "down_blocks.*to_q"}), {.adapter_name = "down"});
  pipe.load_lora_weights(random_lora("unet", {.target_modules_regex = "up_blocks.*to_q"}), {.adapter_name = "up"});
  auto before = run(pipe);
  pipe.set_lora_device({"up"}, at::kCPU);
  expect_same(run(pipe), before);
  pipe.set_lora_device({"dora", "down"}, at::kMeta);
  on(pipe, "dora", at::kMeta);
  on(pipe, "down", at::kMeta);
  on(pipe, "up", at::kCPU);
  expect_same(run(pipe), before);
  error_of(ErrorKind::not_found, [&] { pipe.set_lora_device({"up", "none"}, at::kMeta); });
  on(pipe, "up", at::kCPU);
  for (auto name : {"dora", "down"}) {
    pipe.set_adapters({name, "up"});
    EXPECT_TRUE(contains(error_of(ErrorKind::conflict, [&] { pipe.run("unet"); }), name));
  }
}

// ---- Training -------------------------------------------------------------------------------------------------------

namespace {

// A run that autograd sees.
Tensor forward(const TinyPipeline& pipe) {
  auto expected = load_state_dict(TinyPipeline::folder() / "expected.safetensors");
  return pipe.unet(expected.at("inputs.sample"), expected.at("inputs.timestep"),
                   expected.at("inputs.encoder_hidden_states"));
}

const Names kAttention{"to_q", "to_k", "to_v", "to_out.0"};

}  // namespace

TEST(Train, AFreshAdapterChangesNothingUnlessAskedTo) {
  for (auto init : {Init::standard, Init::gaussian, Init::random}) {
    TinyPipeline pipe;
    auto base = run(pipe);
    auto name = pipe.create_adapter("unet", {.target_modules_regex = ".*(to_q|conv1)", .init_lora_weights = init});
    EXPECT_EQ(name, "default_0");
    EXPECT_EQ(pipe.get_active_adapters(), Names{"default_0"});
    if (init == Init::random)
      expect_differ(run(pipe).unet, base.unet);
    else
      expect_same(run(pipe), base);
  }
}

TEST(Train, InitsAreTheirDistributions) {
  auto A = [](Init init, uint64_t seed = 0) {
    TinyPipeline pipe;
    pipe.create_adapter("unet", {.adapter_name = "a",
                                 .r = 16,
                                 .target_modules_regex = "mid_block.*conv1",
                                 .init_lora_weights = init,
                                 .seed = seed});
    return pipe.get_lora_layers("unet", "a").at("mid_block.resnets.0.conv1.lora_A.weight");  // [16, 20, 3, 3]
  };
  auto bound = 1 / std::sqrt(180.0);
  EXPECT_LE(A(Init::standard).abs().max().item<double>(), bound);
  EXPECT_NEAR(A(Init::standard).std().item<double>(), bound / std::sqrt(3.0), 0.05 * bound);
  EXPECT_NEAR(A(Init::gaussian).std().item<double>(), 1 / 16.0, 0.05 / 16);
  EXPECT_TRUE(at::equal(A(Init::standard), A(Init::standard)));
  EXPECT_FALSE(at::equal(A(Init::standard), A(Init::standard, 1)));
}

TEST(Train, BackwardReachesTheAdapterAlone) {
  TinyPipeline pipe;
  pipe.load_lora_weights(kKohya, {.adapter_name = "other"});
  pipe.create_adapter(
      "unet",
      {.adapter_name = "a", .target_modules = kAttention, .init_lora_weights = Init::random, .lora_bias = true});
  EXPECT_TRUE(pipe.trainable_parameters("unet", "other").empty());
  auto parameters = pipe.trainable_parameters("unet", "a");
  EXPECT_EQ(parameters.size(), 4u * 2 * 4 * 3);
  forward(pipe).square().sum().backward();
  for (const auto& [key, tensor] : parameters) {
    ASSERT_TRUE(tensor.grad().defined()) << key;
    // A key's bias is the same for all keys, which a softmax does not see.
    if (!key.ends_with("to_k.lora_B.bias")) {
      EXPECT_GT(tensor.grad().abs().max().item<double>(), 0) << key;
    }
  }
  for (const auto& [key, tensor] : pipe.unet.state_dict()) {
    EXPECT_FALSE(tensor.requires_grad()) << key;
    EXPECT_FALSE(tensor.grad().defined()) << key;
  }
  for (const auto& [key, tensor] : pipe.get_lora_layers("unet", "other")) EXPECT_FALSE(tensor.requires_grad()) << key;
}

TEST(Train, GradientsAreTheSlopes) {
  TinyPipeline pipe;
  pipe.create_adapter("unet", {.adapter_name = "a",
                               .r = 2,
                               .target_modules_regex = "mid_block.*(to_q|conv1)",
                               .init_lora_weights = Init::random});
  auto loss = [&] { return forward(pipe).to(at::kDouble).square().sum(); };
  loss().backward();
  for (const auto& [key, tensor] : pipe.trainable_parameters("unet", "a")) {
    c10::NoGradGuard no_grad;
    auto direction = tensor.grad() / tensor.grad().norm();
    double step = 1e-2;
    tensor.add_(direction, step);
    auto above = loss().item<double>();
    tensor.sub_(direction, 2 * step);
    auto below = loss().item<double>();
    tensor.add_(direction, step);
    auto slope = tensor.grad().norm().item<double>();
    EXPECT_NEAR((above - below) / (2 * step), slope, 0.05 * slope + 1e-3) << key;
  }
}

TEST(Train, WritingToParametersChangesTheAdapterAndItsFile) {
  TinyPipeline pipe;
  TemporaryFolder folder;
  pipe.create_adapter("unet", {.adapter_name = "a", .target_modules = kAttention});
  auto before = pipe.run("unet");
  {
    c10::NoGradGuard no_grad;
    for (const auto& [key, tensor] : pipe.trainable_parameters("unet", "a")) tensor.add_(0.1);
  }
  auto trained = pipe.run("unet");
  expect_differ(trained, before);
  pipe.fuse_lora();
  expect_close(pipe.run("unet"), trained, 1e-5);
  save(pipe, "a", folder.path());
  pipe.delete_adapters({"a"});
  EXPECT_TRUE(at::equal(pipe.run("unet"), before));
  pipe.load_lora_weights(folder.path());
  expect_close(pipe.run("unet"), trained, 1e-6);
}

TEST(Train, ChecksItsArguments) {
  TinyPipeline pipe;
  auto refused = [&](ErrorKind kind, const std::string& component, const CreateAdapterOptions& options) {
    return error_of(kind, [&] { pipe.create_adapter(component, options); });
  };
  EXPECT_TRUE(contains(refused(ErrorKind::usage, "unet", {.r = 0, .target_modules = {"to_q"}}), "r is 0"));
  EXPECT_TRUE(contains(refused(ErrorKind::usage, "unet", {.target_modules = {"to_x"}}), "to_x"));
  refused(ErrorKind::usage, "unet", {});
  refused(ErrorKind::usage, "unet", {.target_modules_regex = "("});
  refused(ErrorKind::usage, "vae", {.target_modules = {"to_q"}});
  EXPECT_TRUE(pipe.get_list_adapters().empty());
  pipe.create_adapter("unet", {.adapter_name = "a", .target_modules = {"to_q"}});
  refused(ErrorKind::conflict, "unet", {.adapter_name = "a", .target_modules = {"to_k"}});
}

TEST(Train, DoraIsTrainedStepByStep) {
  TinyPipeline pipe;
  auto base = pipe.run("unet");
  pipe.create_adapter("unet", {.adapter_name = "a", .target_modules = {"to_q", "conv1"}, .use_dora = true});
  expect_close(pipe.run("unet"), base, 1e-5);
  auto parameters = pipe.trainable_parameters("unet", "a");
  double before = 0;
  for (int step = 0; step < 3; ++step) {
    auto loss = (forward(pipe) - 1).square().mean();
    if (step == 0) before = loss.item<double>();
    if (step == 2) {
      EXPECT_LT(loss.item<double>(), before);
    }
    loss.backward();
    c10::NoGradGuard no_grad;
    for (auto& [key, tensor] : parameters) {
      ASSERT_TRUE(tensor.grad().defined()) << key;
      tensor.sub_(tensor.grad(), 0.05);
      tensor.grad().zero_();
    }
  }
  EXPECT_TRUE(contains(
      error_of(ErrorKind::unsupported,
               [&] { pipe.create_adapter("unet", {.target_modules = {"to_q"}, .use_dora = true, .lora_bias = true}); }),
      "lora_bias"));
}

TEST(Train, ATrainedOneBesideOthersIsRefusedAtTheRun) {
  TinyPipeline pipe;
  pipe.load_lora_weights(kKohya, {.adapter_name = "other"});
  pipe.create_adapter("unet", {.adapter_name = "a", .target_modules = kAttention, .init_lora_weights = Init::random});
  pipe.set_adapters({"other", "a"});
  EXPECT_TRUE(contains(error_of(ErrorKind::conflict, [&] { forward(pipe); }), "trained"));
  pipe.set_adapters({"a"});
  pipe.fuse_lora({.adapter_names = {"other"}});
  forward(pipe).square().sum().backward();
  for (const auto& [key, tensor] : pipe.trainable_parameters("unet", "a")) EXPECT_TRUE(tensor.grad().defined()) << key;
}

TEST(Dora, ASavedOneComesBack) {
  TinyPipeline pipe;
  TemporaryFolder folder;
  pipe.load_lora_weights(TinyPipeline::file("peft_dora.safetensors"), {.adapter_name = "a"});
  auto wanted = pipe.run("unet");
  save(pipe, "a", folder.path());
  pipe.unload_lora_weights();
  auto report = pipe.load_lora_weights(folder.path());
  EXPECT_EQ(report.components.at(0).layers.at(0).algorithm, "dora");
  expect_close(pipe.run("unet"), wanted, 1e-6);
}

// ---- Schedules ------------------------------------------------------------------------------------------------------

TEST(Schedule, TablesHoldUntilTheirNextRow) {
  auto steps = LoraSchedule::by_step({{2, 0.5}, {4, 0.0}});
  std::vector<double> by_step, by_fraction;
  auto half = LoraSchedule::by_fraction({{0, 0.8}, {0.5, 0}});
  for (int step = 0; step < 6; ++step) {
    by_step.push_back(steps(step, 6));
    by_fraction.push_back(half(step, 6));
  }
  EXPECT_EQ(by_step, (std::vector<double>{1, 1, 0.5, 0.5, 0, 0}));
  EXPECT_EQ(by_fraction, (std::vector<double>{0.8, 0.8, 0.8, 0, 0, 0}));
  EXPECT_TRUE(LoraSchedule().constant());
  EXPECT_FALSE(half.constant());
}

namespace {

// Memory of this process in bytes. `field` is a line of /proc/self/status, such as "RssFile".
double resident(std::string_view field) {
  ::malloc_trim(0);  // what the allocator keeps for later is not held by anything
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with(field)) return 1024 * std::stod(line.substr(field.size() + 1));
  return 0.0;
}

}  // namespace

// Adapters are their mapped files: what they took comes back.
TEST(Behaviour, MemoryComesBackAfterUnloading) {
  TinyPipeline pipe;
  TemporaryFolder folder;
  auto name = pipe.create_adapter(
      "unet", {.r = 4096, .target_modules_regex = ".*(attn|ff).*", .init_lora_weights = Init::random});
  Mixin::save_lora_weights(folder.path(), pipe.get_lora_layers("unet", name));
  pipe.unload_lora_weights();
  auto file = folder / "pytorch_lora_weights.safetensors";
  auto load_all = [&] {
    for (int i = 0; i < 8; ++i) {
      pipe.load_lora_weights(file, {.adapter_name = std::to_string(i)});
      run(pipe);  // which reads it
    }
  };
  // Pages of files alone: a sanitizer's allocator keeps freed memory for a time of its own.
  auto mapped = [] { return resident("RssFile") + resident("RssShmem"); };
  load_all();
  pipe.unload_lora_weights();
  auto before = mapped();
  [[maybe_unused]] auto all_before = resident("VmRSS");
  load_all();
  EXPECT_GT(mapped(), before + 6 * double(std::filesystem::file_size(file)));
  pipe.unload_lora_weights();
  EXPECT_LT(mapped(), 1.02 * before);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  EXPECT_LT(resident("VmRSS"), 1.02 * all_before);
#endif
}

}  // namespace lora
