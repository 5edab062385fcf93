// A wrong argument throws lora::Error with the argument's name, and changes nothing. An exception of the caller's own
// functions leaves the library unchanged.
#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <ATen/Parallel.h>

#include <cmath>
#include <limits>

#include "pipelines/states.h"
#include "pipelines/tiny_pipelines.h"

namespace lora {

namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN(), kInf = std::numeric_limits<double>::infinity();
constexpr int kMost = std::numeric_limits<int>::max(), kLeast = std::numeric_limits<int>::min();

const Prompts kPrompt = "red apple";

CallOptions options() { return {.num_inference_steps = 4, .seed = {1}}; }

// Returns the message of the lora::Error that `work` throws, or "". Any other exception fails the test.
template <class Work>
std::string message_of(Work&& work) {
  try {
    work();
  } catch (const Error& error) {
    return error.what();
  } catch (const c10::Error& error) {
    ADD_FAILURE() << "libtorch's own: " << error.what_without_backtrace();
  } catch (const std::exception& error) {
    ADD_FAILURE() << typeid(error).name() << ": " << error.what();
  }
  return "";
}

// The test fails unless `work` throws lora::Error with each of these words in its message.
template <class Work>
void expect_refused(const std::vector<std::string>& words, Work&& work) {
  auto message = message_of(work);
  if (message.empty()) {
    ADD_FAILURE() << "lora::Error was wanted";
    return;
  }
  for (const auto& word : words)
    EXPECT_NE(message.find(word), std::string::npos) << '"' << word << "\" in: " << message;
}

bool has_pooled(const DiffusionPipeline& pipe) { return std::string(pipe.class_name()) != "StableDiffusionPipeline"; }

TextEmbeddings encode(const DiffusionPipeline& pipe, const Prompts& prompt = kPrompt) {
  if (auto* sd = dynamic_cast<const StableDiffusionPipeline*>(&pipe)) return {sd->encode_prompt(prompt), {}};
  if (auto* xl = dynamic_cast<const StableDiffusionXLPipeline*>(&pipe)) return xl->encode_prompt(prompt);
  if (auto* sd3 = dynamic_cast<const StableDiffusion3Pipeline*>(&pipe)) return sd3->encode_prompt(prompt);
  return dynamic_cast<const AmusedPipeline&>(pipe).encode_prompt(prompt);
}

void save(const DiffusionPipeline& pipe, const StateDict& layers, const SaveLoraOptions& o = {}) {
  TemporaryFolder folder;
  std::string kind = pipe.class_name();
  if (kind == "StableDiffusionPipeline") StableDiffusionPipeline::save_lora_weights(folder.path(), layers, {}, o);
  if (kind == "StableDiffusionXLPipeline")
    StableDiffusionXLPipeline::save_lora_weights(folder.path(), layers, {}, {}, o);
  if (kind == "StableDiffusion3Pipeline") StableDiffusion3Pipeline::save_lora_weights(folder.path(), layers, {}, {}, o);
  if (kind == "AmusedPipeline") AmusedPipeline::save_lora_weights(folder.path(), {}, layers, o);
}

// Turns a tensor into one of a wrong shape.
using Form = std::pair<const char*, Tensor (*)(const Tensor&)>;
const Form kWrongShapes[] = {
    {"a number", [](const Tensor&) { return at::scalar_tensor(1.0); }},
    {"nothing in one dimension", [](const Tensor&) { return at::zeros({0}); }},
    {"one dimension", [](const Tensor&) { return at::zeros({3}); }},
    {"a dimension less", [](const Tensor& t) { return t.select(0, 0); }},
    {"a dimension more", [](const Tensor& t) { return t.unsqueeze(0); }},
    {"a dimension more at the end", [](const Tensor& t) { return t.unsqueeze(-1); }},
    {"wider",
     [](const Tensor& t) {
       return at::cat({t, t.slice(-1, 0, 1)}, -1);
     }},
    {"narrower", [](const Tensor& t) { return t.slice(-1, 1); }},
    {"no width", [](const Tensor& t) { return t.slice(-1, 0, 0); }},
    {"nothing in the second dimension", [](const Tensor& t) { return t.slice(1, 0, 0); }},
    {"no rows", [](const Tensor& t) { return t.slice(0, 0, 0); }},
};
// Turns a tensor into one of a wrong kind.
const Form kWrongKinds[] = {
    {"bool", [](const Tensor& t) { return t.to(at::kBool); }},
    {"int32", [](const Tensor& t) { return t.to(at::kInt); }},
    {"complex", [](const Tensor& t) { return t.to(at::kComplexFloat); }},
    {"on no device", [](const Tensor& t) { return t.to(at::kMeta); }},
    {"sparse", [](const Tensor& t) { return t.to_sparse(); }},
};

}  // namespace

class Misuse : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    at::set_num_threads(1);
    pipe_ = tiny::open(GetParam());
    pipe_->load_lora_weights(states::factors(*pipe_), {.adapter_name = "ink"});
    before_ = states::state(*pipe_);
    latents_ = draw(options());
    embeds_ = encode(*pipe_);
  }
  // After every error the pipeline is as before.
  void TearDown() override {
    EXPECT_EQ(states::difference(*pipe_, before_), "");
    EXPECT_TRUE(at::equal(draw(options()), latents_));
  }

  Tensor draw(const CallOptions& o, const Prompts& prompt = kPrompt) const {
    return pipe_->generate_latents(o.prompt_embeds.defined() ? Prompts() : prompt, o);
  }

  // `edit` makes the call wrong. A pipeline that does not take the argument, or another that `edit` sets, says so.
  template <class Edit>
  void expect_call_refused(const std::string& argument, const std::string& what, Edit edit,
                           const Prompts& prompt = kPrompt) {
    SCOPED_TRACE(argument + ": " + what);
    auto o = options();
    edit(o);
    auto message = message_of([&] { draw(o, prompt); });
    EXPECT_TRUE(message.find(argument) != std::string::npos || message.find("does not take") != std::string::npos)
        << "in: " << message;
  }

  std::unique_ptr<DiffusionPipeline> pipe_;
  states::State before_;
  Tensor latents_;
  TextEmbeddings embeds_;
};

INSTANTIATE_TEST_SUITE_P(Pipelines, Misuse, testing::Values("sd", "sdxl", "sd3", "amused-256"), tiny::test_name);

// ---- Calls ----------------------------------------------------------------------------------------------------------

TEST_P(Misuse, NumbersOutOfRangeAreNamed) {
  for (int n : {0, -1, kLeast, kMost})
    expect_call_refused("num_inference_steps", std::to_string(n), [&](auto& o) { o.num_inference_steps = n; });
  for (int n : {0, -1, kLeast})
    expect_call_refused("num_images_per_prompt", std::to_string(n), [&](auto& o) { o.num_images_per_prompt = n; });
  for (int n : {7, -8, kLeast, kMost}) expect_call_refused("height", std::to_string(n), [&](auto& o) { o.height = n; });
  for (int n : {7, -8, kLeast, kMost}) expect_call_refused("width", std::to_string(n), [&](auto& o) { o.width = n; });
  for (int n : {-1, 100, kLeast, kMost})
    expect_call_refused("clip_skip", std::to_string(n), [&](auto& o) { o.clip_skip = n; });
  for (int n : {0, -1, 513, kLeast, kMost})
    expect_call_refused("max_sequence_length", std::to_string(n), [&](auto& o) { o.max_sequence_length = n; });
  expect_call_refused("seed", "2 for 1 image", [](auto& o) { o.seed = {1, 2}; });
  for (double x : {0.0, -1.0, 1.5}) {
    expect_call_refused("strength", std::to_string(x), [&](auto& o) {
      o.image = {tiny::picture("misuse", {32, 32})};
      o.strength = x;
    });
  }
  for (int64_t layer : {-1, 99})
    expect_call_refused("skip_guidance_layers", std::to_string(layer), [&](auto& o) {
      o.skip_guidance_layers = {layer};
      o.skip_layer_guidance_stop = 1;
    });
}

// NaN and infinities.
TEST_P(Misuse, WhatIsNoNumberIsNamed) {
  for (double x : {kNan, kInf, -kInf}) {
    auto refused = [&](const char* argument, auto set) { expect_call_refused(argument, std::to_string(x), set); };
    refused("guidance_scale", [&](auto& o) { o.guidance_scale = x; });
    refused("guidance_rescale", [&](auto& o) { o.guidance_rescale = x; });
    refused("eta", [&](auto& o) { o.eta = x; });
    refused("strength", [&](auto& o) {
      o.image = {tiny::picture("misuse", {32, 32})};
      o.strength = x;
    });
    refused("denoising_start", [&](auto& o) {
      o.denoising_start = x;
      o.latents = latents_;
    });
    refused("denoising_end", [&](auto& o) { o.denoising_end = x; });
    refused("aesthetic_score", [&](auto& o) { o.aesthetic_score = x; });
    refused("negative_aesthetic_score", [&](auto& o) { o.negative_aesthetic_score = x; });
    refused("micro_conditioning_aesthetic_score", [&](auto& o) { o.micro_conditioning_aesthetic_score = x; });
    refused("temperature", [&](auto& o) { o.temperature = {x, 0}; });
    refused("mu", [&](auto& o) { o.mu = x; });
    refused("skip_layer_guidance_scale", [&](auto& o) { o.skip_layer_guidance_scale = x; });
    refused("skip_layer_guidance_start", [&](auto& o) { o.skip_layer_guidance_start = x; });
    refused("skip_layer_guidance_stop", [&](auto& o) { o.skip_layer_guidance_stop = x; });
    refused("scale", [&](auto& o) { o.cross_attention_kwargs.scale = x; });
    refused("scale", [&](auto& o) { o.joint_attention_kwargs.scale = x; });
    refused("weight", [&](auto& o) { o.adapters = {{.name = "ink", .weight = x}}; });
    refused("schedule", [&](auto& o) { o.adapters = {{.name = "ink", .schedule = [&](int, int) { return x; }}}; });
  }
}

// Numbers that do not fit into float32.
TEST_P(Misuse, NumbersTooLargeAreRefused) {
  constexpr double kHuge = 1e300;
  auto call = [&](const char* what, auto edit) {
    SCOPED_TRACE(what);
    auto o = options();
    edit(o);
    message_of([&] { draw(o); });
  };
  call("guidance_scale", [&](auto& o) { o.guidance_scale = kHuge; });
  call("cross_attention_kwargs", [&](auto& o) { o.cross_attention_kwargs.scale = kHuge; });
  call("joint_attention_kwargs", [&](auto& o) { o.joint_attention_kwargs.scale = kHuge; });
  call("temperature", [&](auto& o) { o.temperature = {kHuge, kHuge}; });
  call("micro_conditioning_aesthetic_score", [&](auto& o) { o.micro_conditioning_aesthetic_score = kHuge; });
  expect_call_refused("weight", "1e300", [&](auto& o) { o.adapters = {{.name = "ink", .weight = kHuge}}; });
  expect_call_refused("schedule", "1e300",
                      [&](auto& o) { o.adapters = {{.name = "ink", .schedule = [](int, int) { return kHuge; }}}; });
  expect_refused({"weight"}, [&] { pipe_->set_adapters({"ink"}, {kHuge}); });
}

// Sizes whose tensors are too large for any machine.
TEST_P(Misuse, SizesBeyondAllMemoryAreRefused) {
  for (int size : {1 << 30, kMost / 64 * 64}) {
    auto o = options();
    o.height = o.width = size;
    SCOPED_TRACE(size);
    expect_refused({}, [&] { draw(o); });
  }
  for (int64_t r : {int64_t(1) << 44, std::numeric_limits<int64_t>::max()})
    expect_refused({}, [&] {
      pipe_->create_adapter(pipe_->models().front().name, {.r = r, .target_modules = {"to_q", "query"}});
    });
}

// The pipeline draws the smallest images or refuses them.
TEST_P(Misuse, SmallSizesAreDrawnOrRefused) {
  for (int size : {2, 4, 8}) {
    SCOPED_TRACE(size);
    auto o = options();
    o.height = o.width = size;
    message_of([&] { draw(o); });
  }
}

TEST_P(Misuse, LatentsThatDoNotFitAreNamed) {
  for (const auto& [what, form] : kWrongShapes)
    expect_call_refused("latents", what, [&](auto& o) { o.latents = form(latents_); });
  for (const auto& [what, form] : kWrongKinds)
    expect_call_refused("latents", what, [&](auto& o) { o.latents = form(latents_); });
  auto other = latents_.is_floating_point() ? at::kLong : at::kFloat;
  expect_call_refused("latents", at::toString(other), [&](auto& o) { o.latents = latents_.to(other); });
}

TEST_P(Misuse, EmbeddingsThatDoNotFitAreNamed) {
  auto each = [&](const Form& form) {
    auto [what, make] = form;
    expect_call_refused("prompt_embeds", what, [&](auto& o) {
      o.prompt_embeds = make(embeds_.prompt_embeds);
      o.pooled_prompt_embeds = embeds_.pooled;
    });
    expect_call_refused("negative_prompt_embeds", what, [&](auto& o) {
      o.negative_prompt_embeds = make(embeds_.prompt_embeds);
      o.negative_pooled_prompt_embeds = embeds_.pooled;
    });
    if (!has_pooled(*pipe_)) return;
    expect_call_refused("pooled_prompt_embeds", what, [&](auto& o) {
      o.prompt_embeds = embeds_.prompt_embeds;
      o.pooled_prompt_embeds = make(embeds_.pooled);
    });
    expect_call_refused("negative_pooled_prompt_embeds", what, [&](auto& o) {
      o.negative_prompt_embeds = embeds_.prompt_embeds;
      o.negative_pooled_prompt_embeds = make(embeds_.pooled);
    });
  };
  for (const auto& form : kWrongShapes) each(form);
  for (const auto& form : kWrongKinds) each(form);
  each({"int64", [](const Tensor& t) { return t.to(at::kLong); }});
}

TEST_P(Misuse, EmbeddingsThatDoNotGoTogetherAreNamed) {
  auto two = encode(*pipe_, {"a", "b"}), three = encode(*pipe_, {"a", "b", "c"});
  expect_call_refused("negative_prompt_embeds", "3 for 2", [&](auto& o) {
    o.prompt_embeds = two.prompt_embeds;
    o.pooled_prompt_embeds = two.pooled;
    o.negative_prompt_embeds = three.prompt_embeds;
    o.negative_pooled_prompt_embeds = three.pooled;
  });
  expect_call_refused("negative_prompt_embeds", "of fewer tokens", [&](auto& o) {
    o.prompt_embeds = embeds_.prompt_embeds;
    o.pooled_prompt_embeds = embeds_.pooled;
    o.negative_prompt_embeds = embeds_.prompt_embeds.slice(1, 0, 5);
    o.negative_pooled_prompt_embeds = embeds_.pooled;
  });
  // The call needs a prompt or embeddings.
  expect_refused({"prompt"}, [&] { pipe_->generate_latents({}, options()); });
  if (!has_pooled(*pipe_)) return;
  expect_call_refused("pooled_prompt_embeds", "3 for 2", [&](auto& o) {
    o.prompt_embeds = two.prompt_embeds;
    o.pooled_prompt_embeds = three.pooled;
  });
  expect_call_refused("pooled_prompt_embeds", "none", [&](auto& o) { o.prompt_embeds = two.prompt_embeds; });
  expect_call_refused("negative_pooled_prompt_embeds", "none",
                      [&](auto& o) { o.negative_prompt_embeds = embeds_.prompt_embeds; });
}

// Embeddings may have any floating dtype. The model's dtype is that of the results.
TEST_P(Misuse, EmbeddingsOfOtherFloatsAreTaken) {
  auto o = options();
  o.prompt_embeds = embeds_.prompt_embeds.to(at::kDouble);
  if (has_pooled(*pipe_)) o.pooled_prompt_embeds = embeds_.pooled.to(at::kDouble);
  EXPECT_TRUE(at::equal(draw(o), latents_));
}

// NaN in embeddings throws lora::Error or nothing.
TEST_P(Misuse, EmbeddingsThatAreNoNumbersThrowNothingElse) {
  auto o = options();
  o.prompt_embeds = embeds_.prompt_embeds * kNan;
  if (has_pooled(*pipe_)) o.pooled_prompt_embeds = embeds_.pooled * kNan;
  message_of([&] { draw(o); });
}

TEST_P(Misuse, TextsThatDoNotGoTogetherAreNamed) {
  const Prompts three{"a", "b", "c"}, two{"a", "b"};
  expect_call_refused(
      "negative_prompt", "2 for 3", [&](auto& o) { o.negative_prompt = two; }, three);
  expect_call_refused(
      "prompt_2", "2 for 3", [&](auto& o) { o.prompt_2 = two; }, three);
  expect_call_refused(
      "prompt_3", "2 for 3", [&](auto& o) { o.prompt_3 = two; }, three);
  message_of([&] { draw(options(), "\xff\xfe abc \xc3"); });
  message_of([&] { draw(options(), std::string("a\0b", 3)); });
  expect_refused({"prompt"}, [&] { encode(*pipe_, {}); });
  if (auto* xl = dynamic_cast<StableDiffusionXLPipeline*>(pipe_.get()))
    expect_refused({"prompt_2"}, [&] { xl->encode_prompt("a", two); });
  if (auto* sd3 = dynamic_cast<StableDiffusion3Pipeline*>(pipe_.get())) {
    expect_refused({"prompt_2"}, [&] { sd3->encode_prompt("a", two); });
    expect_refused({"prompt_3"}, [&] { sd3->encode_prompt("a", {}, two); });
  }
}

TEST_P(Misuse, PicturesWhosePixelsDoNotFitSayTheirSizes) {
  struct Wrong {
    int width, height;
    size_t bytes;
  };
  for (auto [width, height, bytes] : {Wrong{32, 48, 10},
                                      {32, 48, 32 * 48 * 3 + 1},
                                      {32, 48, 0},
                                      {kMost, kMost, 27},
                                      {-32, -48, 32 * 48 * 3},
                                      {0, 0, 0},
                                      {32, 0, 0}}) {
    SCOPED_TRACE(testing::Message() << width << " x " << height << " of " << bytes);
    const Image wrong{width, height, std::vector<uint8_t>(bytes), {}};
    const Image good = tiny::picture("misuse", {32, 32});
    for (bool as_mask : {false, true}) {
      auto o = options();
      o.strength = 0.9;
      o.image = {as_mask ? good : wrong};
      if (as_mask) o.mask_image = {wrong};
      o.height = o.width = 32;
      auto message = message_of([&] { draw(o); });
      EXPECT_NE(message.find("image"), std::string::npos) << message;
      EXPECT_NE(message.find(std::to_string(width)), std::string::npos) << message;
      EXPECT_NE(message.find(std::to_string(height)), std::string::npos) << message;
    }
    TemporaryFolder folder;
    expect_refused({std::to_string(width), std::to_string(height)}, [&] { wrong.save(folder / "wrong.png"); });
    EXPECT_TRUE(folder.names().empty());
  }
}

TEST_P(Misuse, PicturesThatDoNotGoTogetherAreNamed) {
  auto pictures = [](size_t n) { return std::vector<Image>(n, tiny::picture("misuse", {32, 32})); };
  const Prompts three{"a", "b", "c"};
  expect_call_refused(
      "image", "2 for 3", [&](auto& o) { o.image = pictures(2), o.strength = 0.9; }, three);
  expect_call_refused(
      "image", "4 for 3 seeds",
      [&](auto& o) {
        o.image = pictures(4);
        o.strength = 0.9;
        o.seed = {1, 2, 3};
      },
      three);
  expect_call_refused("mask_image", "2 for 1", [&](auto& o) { o.image = pictures(1), o.mask_image = pictures(2); });
  expect_call_refused("mask_image", "alone", [&](auto& o) { o.mask_image = pictures(1); });
  expect_call_refused("strength", "alone", [&](auto& o) { o.strength = 0.5; });
  expect_call_refused("denoising_start", "alone", [&](auto& o) { o.denoising_start = 0.5; });
}

// ---- Adapters of a call ---------------------------------------------------------------------------------------------

TEST_P(Misuse, MasksThatAreNoneAreNamedWithTheirAdapter) {
  auto refused = [&](const char* what, const Tensor& mask) {
    SCOPED_TRACE(what);
    auto o = options();
    o.adapters = {{.name = "ink", .mask = mask}};
    expect_refused({"mask", "ink"}, [&] { draw(o); });
    o.adapters.reset();
    o.adapters_per_image = {{{.name = "ink", .mask = mask}}};
    expect_refused({"mask", "ink"}, [&] { draw(o); });
  };
  refused("no rows", at::zeros({0, 5}));
  refused("no columns", at::zeros({5, 0}));
  refused("a number", at::scalar_tensor(1.0));
  refused("a row", at::ones({5}));
  refused("a batch", at::ones({1, 5, 5}));
  refused("NaN", at::full({5, 5}, kNan));
  refused("infinite", at::full({5, 5}, kInf));
  auto one_nan = at::ones({5, 5});
  one_nan[2][3] = kNan;
  refused("one NaN", one_nan);
  refused("complex", at::ones({5, 5}, at::kComplexFloat));
  refused("on no device", at::ones({5, 5}, at::kMeta));
  refused("sparse", at::ones({5, 5}).to_sparse());
}

// A mask may have any dtype. True is 1 and false is 0.
TEST_P(Misuse, MasksOfAnyNumbersAreMasks) {
  auto mask = at::zeros({32, 32});
  mask.slice(1, 0, 16).fill_(1);
  auto with = [&](const Tensor& m) {
    auto o = options();
    o.adapters = {{.name = "ink", .mask = m}};
    return draw(o);
  };
  auto wanted = with(mask);
  for (auto dtype : {at::kBool, at::kByte, at::kInt, at::kLong, at::kHalf, at::kBFloat16, at::kDouble})
    EXPECT_TRUE(at::equal(with(mask.to(dtype)), wanted)) << at::toString(dtype);
}

TEST_P(Misuse, AdaptersThatAreNotThereAreNamed) {
  expect_call_refused("inc", "in the call", [](auto& o) { o.adapters = {{.name = "inc"}}; });
  expect_call_refused("inc", "of an image", [](auto& o) { o.adapters_per_image = {{{.name = "inc"}}}; });
  expect_call_refused("adapters_per_image", "2 for 1", [](auto& o) { o.adapters_per_image = {{}, {}}; });
  expect_call_refused("sideways", "a block", [&](auto& o) {
    LoraScale weight = LoraScale::Dict{{pipe_->models().front().name, LoraScale{{"sideways", 1.0}}}};
    o.adapters = {{.name = "ink", .weight = weight}};
  });
}

// ---- What the caller's own functions do -----------------------------------------------------------------------------

namespace {

struct Mine : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace

TEST_P(Misuse, WhatTheCallersFunctionsThrowComesOutAsItIs) {
  auto o = options();
  o.callback_on_step_end = [](const StepEnd&) -> bool { throw Mine("mine"); };
  EXPECT_THROW(draw(o), Mine);
  o.callback_on_step_end = [](const StepEnd&) -> bool { throw 5; };
  EXPECT_THROW(draw(o), int);
  o.callback_on_step_end = [](const StepEnd&) -> bool { throw std::bad_alloc(); };
  EXPECT_THROW(draw(o), std::bad_alloc);
  o = options();
  o.adapters = {{.name = "ink", .schedule = [](int, int) -> double { throw Mine("mine"); }}};
  EXPECT_THROW(draw(o), Mine);
  SaveLoraOptions saving;
  saving.save_function = [](const StateDict&, const std::filesystem::path&) { throw Mine("mine"); };
  EXPECT_THROW(save(*pipe_, pipe_->get_lora_layers(pipe_->models().front().name, "ink"), saving), Mine);
  o = options();
  o.callback_on_step_end = [](const StepEnd&) { return false; };
  error_of(ErrorKind::cancelled, [&] { draw(o); });
}

// A callback may replace the latents by others of the same shape and dtype.
TEST_P(Misuse, LatentsThatACallbackSpoilsAreNamed) {
  auto spoiled = [&](const char* what, auto spoil, bool may_do = false) {
    SCOPED_TRACE(what);
    auto o = options();
    o.callback_on_step_end = [&](const StepEnd& end) {
      if (end.step == 0) end.latents = spoil(end.latents);
      return true;
    };
    if (may_do)
      message_of([&] { draw(o); });
    else
      expect_refused({"latents"}, [&] { draw(o); });
  };
  for (const auto& [what, form] : kWrongShapes) spoiled(what, form);
  for (const auto& [what, form] : kWrongKinds) spoiled(what, form);
  spoiled("nothing", [](const Tensor&) { return Tensor(); });
  spoiled(
      "with gradients", [](const Tensor& t) { return t.is_floating_point() ? t.clone().requires_grad_(true) : t; },
      true);
  // Also in the last step, where no model reads the latents afterwards.
  auto o = options();
  o.callback_on_step_end = [](const StepEnd& end) {
    if (end.step == end.num_steps - 1) end.latents = Tensor();
    return true;
  };
  expect_refused({"latents"}, [&] { draw(o); });
}

TEST_P(Misuse, WithoutASchedulerNothingIsDrawnOrSaved) {
  auto own = std::exchange(pipe_->scheduler, nullptr);
  TemporaryFolder folder;
  expect_refused({"scheduler"}, [&] { draw(options()); });
  expect_refused({"scheduler"}, [&] { pipe_->save_pretrained(folder / "saved"); });
  pipe_->scheduler = own;
}

// A scheduler of another kind: for tokens, or for latents.
TEST_P(Misuse, SchedulersOfOtherPipelinesThrowNothingElse) {
  auto own = pipe_->scheduler;
  for (const char* other : {"DDIMScheduler", "FlowMatchEulerDiscreteScheduler", "AmusedScheduler"}) {
    SCOPED_TRACE(other);
    bool of_tokens = std::string(other) == "AmusedScheduler";
    pipe_->scheduler = Scheduler::from_config(of_tokens ? R"({"mask_token_id": 5})" : "{}", other);
    message_of([&] { draw(options()); });
  }
  pipe_->scheduler = own;
}

// ---- Arguments of one pipeline --------------------------------------------------------------------------------------

TEST_P(Misuse, SkipLayerGuidanceIsStableDiffusion3sAlone) {
  auto call = [&](auto edit) {
    auto o = options();
    edit(o);
    return draw(o);
  };
  auto scale = [](auto& o) { o.skip_layer_guidance_scale = 3; };
  auto start = [](auto& o) { o.skip_layer_guidance_start = 0.1; };
  auto stop = [](auto& o) { o.skip_layer_guidance_stop = 0.9; };
  if (GetParam() == "sd3") {
    EXPECT_NO_THROW(call(scale));
    EXPECT_NO_THROW(call(start));
    EXPECT_NO_THROW(call(stop));
    return;
  }
  auto named = [&](const char* argument, auto edit) {
    EXPECT_NE(error_of(ErrorKind::usage, [&] { call(edit); }).find(argument), std::string::npos) << argument;
  };
  named("skip_layer_guidance_scale", scale);
  named("skip_layer_guidance_start", start);
  named("skip_layer_guidance_stop", stop);
}

// ---- Other calls ----------------------------------------------------------------------------------------------------

TEST_P(Misuse, LatentsThatCannotBeDecodedAreRefused) {
  for (const auto& [what, form] : kWrongShapes) {
    SCOPED_TRACE(what);
    message_of([&] { pipe_->decode_latents(form(latents_)); });
    message_of([&] { to_images(form(at::rand({1, 3, 8, 8}))); });
  }
  for (const auto& [what, form] : kWrongKinds) {
    SCOPED_TRACE(what);
    message_of([&] { pipe_->decode_latents(form(latents_)); });
    message_of([&] { to_images(form(at::rand({1, 3, 8, 8}))); });
  }
  expect_refused({}, [&] { pipe_->decode_latents(Tensor()); });
  expect_refused({}, [&] { to_images(Tensor()); });
}

// Tensors of a layer, wrong in each possible way.
TEST_P(Misuse, TensorsThatCannotBeLoadedAreNamed) {
  std::string path;
  for (const auto& [key, tensor] : states::factors(*pipe_))
    if (path.empty()) path = key.substr(0, key.find(".lora_A"));
  auto good = states::factors(*pipe_);
  auto A = good.at(path + ".lora_A.weight"), B = good.at(path + ".lora_B.weight");
  auto forms = std::vector<Form>(std::begin(kWrongShapes), std::end(kWrongShapes));
  forms.insert(forms.end(), std::begin(kWrongKinds), std::end(kWrongKinds));
  forms.push_back({"undefined", [](const Tensor&) { return Tensor(); }});
  forms.push_back({"NaN", [](const Tensor& t) { return t * kNan; }});
  for (const auto& [what, form] : forms) {
    SCOPED_TRACE(what);
    auto load = [&](const StateDict& file) {
      message_of([&] { pipe_->match_lora(file); });
      message_of([&] {
        pipe_->load_lora_weights(file, {.adapter_name = "wrong"});
        pipe_->delete_adapters({"wrong"});
      });
      pipe_->set_adapters({"ink"});
    };
    load({{path + ".lora_A.weight", form(A)}, {path + ".lora_B.weight", B}});
    load({{path + ".lora_A.weight", A}, {path + ".lora_B.weight", form(B)}});
    load({{path + ".lora_A.weight", A}, {path + ".lora_B.weight", B}, {path + ".alpha", form(at::ones({1, 2}))}});
    load({{path + ".lora_A.weight", A}, {path + ".lora_B.weight", B}, {path + ".dora_scale", form(at::ones({1, 2}))}});
    load({{path + ".diff", form(at::ones({B.size(0), A.size(1)}))}});
  }
}

// An adapter and its model must belong to this pipeline.
TEST_P(Misuse, ModelsOfOtherPipelinesAreRefused) {
  auto other = tiny::open(GetParam());
  auto file = states::factors(*other, 2);
  LoadIntoOptions into{.adapter_name = "stray"};
  LoadIntoTextEncoderOptions into_text{.adapter_name = "stray"};
  auto refused = [&](auto work) { error_of(ErrorKind::usage, work); };
  auto try_all = [&](auto& own, auto& others) {
    if constexpr (requires { own.unet; })
      refused([&] { own.load_lora_into_unet(file, {}, others.unet, into); });
    else if constexpr (requires { own.load_lora_into_transformer(file, others.transformer, into); })
      refused([&] { own.load_lora_into_transformer(file, others.transformer, into); });
    else
      refused([&] { own.load_lora_into_transformer(file, {}, others.transformer, into); });
    if constexpr (requires { *others.text_encoder; })
      refused([&] { own.load_lora_into_text_encoder(file, {}, *others.text_encoder, into_text); });
    else
      refused([&] { own.load_lora_into_text_encoder(file, {}, others.text_encoder, into_text); });
  };
  auto as = [&]<class Pipeline>(Pipeline* own) {
    if (own) try_all(*own, dynamic_cast<Pipeline&>(*other));
  };
  as(dynamic_cast<StableDiffusionPipeline*>(pipe_.get()));
  as(dynamic_cast<StableDiffusionXLPipeline*>(pipe_.get()));
  as(dynamic_cast<StableDiffusion3Pipeline*>(pipe_.get()));
  as(dynamic_cast<AmusedPipeline*>(pipe_.get()));
  EXPECT_TRUE(other->get_list_adapters().empty());
}

TEST_P(Misuse, ReportsOfFilesWithOddNamesCanBeRead) {
  auto file = states::factors(*pipe_);
  auto odd = pipe_->models().front().name + ".\xff";
  file.set(odd + ".lora_A.weight", at::zeros({2, 2}));
  file.set(odd + ".lora_B.weight", at::zeros({2, 2}));
  message_of([&] {
    auto report = pipe_->match_lora(file);
    EXPECT_FALSE(report.unmatched.empty());
    EXPECT_FALSE(report.text().empty());
    EXPECT_FALSE(report.json().empty());
  });
}

TEST_P(Misuse, LayersThatCannotBeSavedAreNamed) {
  auto A = at::zeros({2, 2}), B = at::zeros({2, 2});
  auto refused = [&](const std::vector<std::string>& words, const StateDict& layers) {
    expect_refused(words, [&] { save(*pipe_, layers); });
  };
  refused({"x.alpha"}, {{"x.lora_A.weight", A}, {"x.lora_B.weight", B}, {"x.alpha", at::zeros({3})}});
  refused({"x.alpha"}, {{"x.lora_A.weight", A}, {"x.lora_B.weight", B}, {"x.alpha", at::zeros({0})}});
  refused({"x.alpha"}, {{"x.lora_A.weight", A}, {"x.lora_B.weight", B}, {"x.alpha", Tensor()}});
  refused({"x.alpha"}, {{"x.lora_A.weight", A}, {"x.lora_B.weight", B}, {"x.alpha", at::ones({}, at::kMeta)}});
  refused({"x.alpha"}, {{"x.lora_A.weight", A}, {"x.lora_B.weight", B}, {"x.alpha", at::full({}, kNan)}});
  refused({}, {{"x.alpha", at::ones({1})}});
  refused({"x.lora_B.weight"}, {{"x.lora_B.weight", B}, {"x.alpha", at::ones({1})}});
  refused({"x.lora_A.weight"}, {{"x.lora_A.weight", A.to(at::kMeta)}, {"x.lora_B.weight", B}});
  refused({"x.lora_A.weight"}, {{"x.lora_A.weight", A.to_sparse()}, {"x.lora_B.weight", B}});
  refused({"x.lora_A.weight"}, {{"x.lora_A.weight", Tensor()}, {"x.lora_B.weight", B}});
  refused({}, {});
  message_of([&] {
    save(*pipe_, {{"\xff.lora_A.weight", A}, {"\xff.lora_B.weight", B}, {"\xff.alpha", at::ones({})}});
  });
  message_of([&] {
    save(*pipe_, {{"x.lora_A.weight", A.to(at::kMeta)}, {"x.lora_B.weight", B}}, {.safe_serialization = false});
  });
}

TEST_P(Misuse, AdaptersGoToDevicesThatAreThere) {
  if (!at::hasCUDA()) expect_refused({"cuda"}, [&] { pipe_->set_lora_device({"ink"}, at::kCUDA); });
  expect_refused({"inc"}, [&] { pipe_->set_lora_device({"inc"}, at::kCPU); });
  // An adapter on the meta device has lost its numbers: it cannot be fused or moved back, only deleted.
  pipe_->load_lora_weights(states::factors(*pipe_, 2), {.adapter_name = "gone"});
  pipe_->set_lora_device({"gone"}, at::kMeta);
  expect_refused({"gone"}, [&] { draw(options()); });
  expect_refused({"gone"}, [&] { pipe_->fuse_lora(); });
  expect_refused({"gone"}, [&] { pipe_->fuse_lora({.safe_fusing = true}); });
  expect_refused({"gone"}, [&] { pipe_->set_lora_device({"gone"}, at::kCPU); });
  message_of([&] { save(*pipe_, pipe_->get_lora_layers(pipe_->models().front().name, "gone")); });
  pipe_->delete_adapters({"gone"});
  pipe_->set_adapters({"ink"});
  // A fused adapter can be unfused, wherever its tensors are.
  auto file = pipe_->get_lora_layers(pipe_->models().front().name, "ink");
  pipe_->load_lora_weights(states::factors(*pipe_, 2), {.adapter_name = "gone"});
  pipe_->fuse_lora();
  message_of([&] { pipe_->set_lora_device({"gone"}, at::kMeta); });
  message_of([&] { pipe_->unfuse_lora(); });
  EXPECT_TRUE(pipe_->fused_loras().empty());
  pipe_->delete_adapters({"gone"});
  pipe_->set_adapters({"ink"});
}

TEST_P(Misuse, ModelsAreOpenedInFloatsOnRealDevices) {
  auto folder = tiny::folder(GetParam());
  for (auto dtype : {at::kLong, at::kBool, at::kComplexFloat, at::kFloat8_e4m3fn}) {
    SCOPED_TRACE(at::toString(dtype));
    expect_refused({"dtype"}, [&] { DiffusionPipeline::from_pretrained(folder, {.dtype = dtype}); });
  }
  expect_refused({"meta"}, [&] {
    auto pipe = DiffusionPipeline::from_pretrained(folder, {.dtype = at::kFloat, .device = at::kMeta});
    pipe->generate_latents(kPrompt, options());
  });
  if (!at::hasCUDA())
    expect_refused({"cuda"}, [&] { DiffusionPipeline::from_pretrained(folder, {.device = at::kCUDA}); });
}

// JSON that is nested deeper than any stack.
TEST(MisuseOfScales, WeightsNestedTooDeeplyAreRefused) {
  std::string lists(100000, '['), dicts;
  for (int i = 0; i < 100000; ++i) dicts += "{\"a\":";
  expect_refused({}, [&] { LoraScale::parse(lists + "1" + std::string(100000, ']')); });
  expect_refused({}, [&] { LoraScale::parse(dicts + "1" + std::string(100000, '}')); });
}

}  // namespace lora
