// What every pipeline does with adapters, on every component that can hold them. To test a new pipeline, add a row to
// tests/data/pipelines/tiny.json.
#include <c10/core/GradMode.h>

#include <random>

#include "pipelines/tiny_pipelines.h"

namespace lora {

namespace {

using Names = std::vector<std::string>;
const Names kTargets{"to_q", "to_k", "to_v", "to_out.0", "query", "value", "conv1", "q_proj", "v_proj", "fc1", "wo"};

StateDict one(const DiffusionPipeline& pipe) { return tiny::factors(pipe, "one", kTargets, 2); }
StateDict two(const DiffusionPipeline& pipe) { return tiny::factors(pipe, "two", {"to_v", "value", "q_proj"}, 3); }

StateDict of_component(const StateDict& tensors, const std::string& component) {
  StateDict own;
  for (const auto& [key, tensor] : tensors)
    if (key.starts_with(component + ".")) own.set(key, tensor);
  return own;
}

// A short call. Models for inpainting start from an image.
CallOptions options(const DiffusionPipeline& pipe) {
  CallOptions o{.num_inference_steps = 2, .seed = {1}};
  auto config = nlohmann::json::parse(pipe.models().front().model->config());
  if (config.value("in_channels", 4) == 9) o.image = o.mask_image = {tiny::picture("behaviour", {32, 32})};
  return o;
}

Tensor draw(const DiffusionPipeline& pipe, const CallOptions& o) { return pipe.generate_latents("red apple", o); }
Tensor draw(const DiffusionPipeline& pipe) { return draw(pipe, options(pipe)); }

Model& text_encoder(DiffusionPipeline& pipe, const std::string& component) {
  if (auto* sd = dynamic_cast<StableDiffusionPipeline*>(&pipe)) return sd->text_encoder;
  if (auto* amused = dynamic_cast<AmusedPipeline*>(&pipe)) return amused->text_encoder;
  if (auto* xl = dynamic_cast<StableDiffusionXLPipeline*>(&pipe))
    return component == "text_encoder" ? *xl->text_encoder : xl->text_encoder_2;
  auto& sd3 = dynamic_cast<StableDiffusion3Pipeline&>(pipe);
  if (component == "text_encoder_3") return *sd3.text_encoder_3;
  return component == "text_encoder" ? sd3.text_encoder : sd3.text_encoder_2;
}

bool is_token(const Tensor& t) { return t.scalar_type() == at::kLong; }

// Compares latents with a tolerance. Tokens are drawn from logits, so one other token changes all later ones.
void expect_near(const Tensor& got, const Tensor& wanted) {
  if (is_token(wanted))
    EXPECT_LT((got != wanted).to(at::kFloat).mean().item<double>(), 0.3);
  else
    expect_close(got, wanted, 1e-4);
}

std::vector<std::pair<std::string, Tensor>> weights(const DiffusionPipeline& pipe) {
  std::vector<std::pair<std::string, Tensor>> all;
  for (const auto& [component, model] : pipe.models())
    for (const auto& [name, tensor] : model->state_dict()) all.emplace_back(component + "." + name, tensor.clone());
  return all;
}

void expect_same_weights(const DiffusionPipeline& pipe, const std::vector<std::pair<std::string, Tensor>>& wanted) {
  auto got = weights(pipe);
  ASSERT_EQ(got.size(), wanted.size());
  for (size_t i = 0; i < got.size(); ++i) EXPECT_TRUE(same_bits(got[i].second, wanted[i].second)) << got[i].first;
}

void save(const DiffusionPipeline& pipe, const std::string& name, const std::filesystem::path& folder) {
  auto layers = [&](const char* component) {
    for (const auto& c : pipe.models())
      if (c.name == component) return pipe.get_lora_layers(component, name);
    return StateDict();
  };
  auto unet = layers("unet"), transformer = layers("transformer");
  auto text = layers("text_encoder"), text_2 = layers("text_encoder_2"), text_3 = layers("text_encoder_3");
  std::string kind = pipe.class_name();
  if (kind == "StableDiffusionPipeline") StableDiffusionPipeline::save_lora_weights(folder, unet, text);
  if (kind == "StableDiffusionXLPipeline") StableDiffusionXLPipeline::save_lora_weights(folder, unet, text, text_2);
  if (kind == "StableDiffusion3Pipeline")
    StableDiffusion3Pipeline::save_lora_weights(
        folder,
        {{"transformer", transformer}, {"text_encoder", text}, {"text_encoder_2", text_2}, {"text_encoder_3", text_3}});
  if (kind == "AmusedPipeline") AmusedPipeline::save_lora_weights(folder, text, transformer);
}

}  // namespace

class PipelineBehaviour : public testing::TestWithParam<std::string> {};

TEST_P(PipelineBehaviour, EveryComponentTakesAnAdapterAndGivesItBack) {
  auto pipe = tiny::open(GetParam());
  auto base = draw(*pipe);
  auto all = one(*pipe);
  for (const auto& [component, model] : pipe->models()) {
    SCOPED_TRACE(component);
    auto report = pipe->load_lora_weights(of_component(all, component), {.adapter_name = "a"});
    ASSERT_EQ(report.components.size(), 1u);
    EXPECT_EQ(report.components[0].name, component);
    EXPECT_TRUE(report.unmatched.empty());
    EXPECT_FALSE(at::equal(draw(*pipe), base));
    pipe->set_adapters({"a"}, {0});
    EXPECT_TRUE(at::equal(draw(*pipe), base));
    pipe->set_adapters({"a"});
    pipe->disable_lora();
    EXPECT_TRUE(at::equal(draw(*pipe), base));
    pipe->enable_lora();
    EXPECT_FALSE(at::equal(draw(*pipe), base));
    pipe->unload_lora_weights();
    EXPECT_TRUE(at::equal(draw(*pipe), base));
  }
}

TEST_P(PipelineBehaviour, FusedIsActiveAndUnfusedIsTheBase) {
  auto pipe = tiny::open(GetParam());
  auto base = weights(*pipe);
  pipe->load_lora_weights(one(*pipe), {.adapter_name = "one"});
  pipe->load_lora_weights(two(*pipe), {.adapter_name = "two"});
  pipe->set_adapters({"one", "two"}, {0.6, -0.3});
  auto active = draw(*pipe);
  pipe->fuse_lora();
  EXPECT_EQ(pipe->num_fused_loras(), 2);
  expect_near(draw(*pipe), active);
  pipe->unfuse_lora({.adapter_names = {"two"}});
  EXPECT_EQ(pipe->fused_loras(), Names{"one"});
  pipe->unfuse_lora();
  expect_same_weights(*pipe, base);
  EXPECT_TRUE(at::equal(draw(*pipe), active));
  for (const auto& [component, model] : pipe->models()) {
    pipe->fuse_lora({.components = {component}});
    expect_near(draw(*pipe), active);
    pipe->unfuse_lora({.components = {component}});
    expect_same_weights(*pipe, base);
  }
}

TEST_P(PipelineBehaviour, WeightsByComponentBlockAndLayer) {
  auto pipe = tiny::open(GetParam());
  auto tensors = one(*pipe);
  pipe->load_lora_weights(tensors, {.adapter_name = "one"});
  auto denoiser = pipe->models().front().name;
  bool unet = denoiser == "unet";
  // The same through the file's numbers: half of them in the first block, zero in the text encoders.
  LoraScale::Dict scale{{denoiser, unet ? LoraScale{{"down", 0.5}} : LoraScale{{"layer_0", 0.5}}}};
  for (const auto& c : pipe->models())
    if (c.name != denoiser) scale.emplace_back(c.name, 0.0);
  pipe->set_adapters({"one"}, {scale});
  auto got = draw(*pipe);
  StateDict scaled;
  for (const auto& [key, tensor] : of_component(tensors, denoiser)) {
    bool first = key.find(unet ? ".down_blocks." : "transformer_blocks.0.") != std::string::npos ||
                 (!unet && key.find("transformer_layers.0.") != std::string::npos);
    scaled.set(key, key.ends_with("lora_B.weight") && first ? tensor * 0.5 : tensor);
  }
  pipe->load_lora_weights(scaled, {.adapter_name = "scaled"});
  expect_near(draw(*pipe), got);
  auto message = error_of(ErrorKind::usage, [&] {
    pipe->set_adapters({"one"}, {LoraScale::Dict{{denoiser, LoraScale{{"sideways", 0.5}}}}});
  });
  EXPECT_NE(message.find(unet ? "down, mid, up" : "layer_0"), std::string::npos) << message;
}

TEST_P(PipelineBehaviour, SavedAdaptersComeBack) {
  auto pipe = tiny::open(GetParam());
  TemporaryFolder folder;
  pipe->load_lora_weights(one(*pipe), {.adapter_name = "a"});
  auto wanted = draw(*pipe);
  auto list = pipe->get_list_adapters();
  save(*pipe, "a", folder.path());
  pipe->unload_lora_weights();
  auto report = pipe->load_lora_weights(folder.path(), {.adapter_name = "a", .strict = true});
  EXPECT_EQ(report.components.size(), pipe->models().size());
  EXPECT_EQ(pipe->get_list_adapters(), list);
  EXPECT_TRUE(at::equal(draw(*pipe), wanted));
  // Hotswaps another file while the adapter is fused.
  auto base = weights(*pipe);
  pipe->load_lora_weights(two(*pipe), {.adapter_name = "b"});
  auto second = draw(*pipe);
  pipe->set_adapters({"a"});
  pipe->fuse_lora();
  pipe->load_lora_weights(two(*pipe), {.adapter_name = "a", .hotswap = true});
  expect_near(draw(*pipe), second);
  pipe->unfuse_lora();
  EXPECT_TRUE(at::equal(draw(*pipe), second));
}

// The mixins' calls for one component each load one component of the adapter.
TEST_P(PipelineBehaviour, OneComponentAtATimeWithAlphas) {
  auto pipe = tiny::open(GetParam());
  auto tensors = one(*pipe);
  pipe->load_lora_weights(tensors, {.adapter_name = "whole"});
  pipe->set_adapters({"whole"}, {0.5});
  auto wanted = draw(*pipe);
  pipe->unload_lora_weights();

  std::map<std::string, double> alphas;  // half the rank
  constexpr std::string_view kDown = ".lora_A.weight";
  for (const auto& [key, tensor] : tensors)
    if (key.ends_with(kDown)) alphas[key.substr(0, key.size() - kDown.size()) + ".alpha"] = 1;
  auto alphas_of = [&](const std::string& component) {
    auto own = alphas;
    std::erase_if(own, [&](auto& row) { return !row.first.starts_with(component + "."); });
    return own;
  };
  LoadIntoOptions into{.adapter_name = "parts"};
  if (auto* sd = dynamic_cast<StableDiffusionPipeline*>(pipe.get()))
    sd->load_lora_into_unet(tensors, alphas_of("unet"), sd->unet, into);
  if (auto* xl = dynamic_cast<StableDiffusionXLPipeline*>(pipe.get()))
    xl->load_lora_into_unet(tensors, alphas_of("unet"), xl->unet, into);
  if (auto* amused = dynamic_cast<AmusedPipeline*>(pipe.get()))
    amused->load_lora_into_transformer(tensors, alphas_of("transformer"), amused->transformer, into);
  if (auto* sd3 = dynamic_cast<StableDiffusion3Pipeline*>(pipe.get())) {
    sd3->load_lora_into_transformer(tensors, sd3->transformer, into);  // diffusers' does not take alphas
    sd3->set_adapters({"parts"}, {0.5});
  }
  for (const auto& [component, model] : pipe->models()) {
    if (!component.starts_with("text_encoder")) continue;
    LoadIntoTextEncoderOptions text;
    text.adapter_name = "parts";
    text.prefix = component;
    auto report =
        pipe->load_lora_into_text_encoder(tensors, alphas_of(component), text_encoder(*pipe, component), text);
    EXPECT_EQ(report.components[0].name, component);
  }
  EXPECT_EQ(pipe->get_list_adapters().size(), pipe->models().size());
  expect_near(draw(*pipe), wanted);
}

TEST_P(PipelineBehaviour, AFailedLoadLeavesEverythingAsItWas) {
  auto pipe = tiny::open(GetParam());
  pipe->load_lora_weights(one(*pipe), {.adapter_name = "one"});
  auto before = draw(*pipe);
  auto list = pipe->get_list_adapters();
  auto broken = one(*pipe);
  std::string last;
  for (const auto& [key, tensor] : broken)
    if (key.starts_with(pipe->models().back().name + ".") && key.ends_with("lora_A.weight")) last = key;
  broken.set(last, at::ones({2, 7}));
  auto message = error_of(ErrorKind::bad_shape, [&] { pipe->load_lora_weights(broken); });
  EXPECT_NE(message.find("nothing was loaded"), std::string::npos) << message;
  EXPECT_EQ(pipe->get_list_adapters(), list);
  EXPECT_TRUE(at::equal(draw(*pipe), before));
}

TEST_P(PipelineBehaviour, AdaptersOfACallAndOfItsImages) {
  auto pipe = tiny::open(GetParam());
  pipe->load_lora_weights(one(*pipe), {.adapter_name = "one"});
  auto active = draw(*pipe);
  pipe->load_lora_weights(two(*pipe), {.adapter_name = "two"});
  auto second = draw(*pipe);
  pipe->set_adapters({});
  auto base = draw(*pipe);
  auto o = options(*pipe);
  o.adapters = {{.name = "one"}};
  EXPECT_TRUE(at::equal(draw(*pipe, o), active));
  o.adapters->front().schedule = [](int, int) { return 0.0; };
  EXPECT_TRUE(at::equal(draw(*pipe, o), base));
  o.adapters->front() = {.name = "one", .mask = at::ones({32, 32})};
  expect_near(draw(*pipe, o), active);
  o.adapters->front().mask = at::zeros({32, 32});
  expect_near(draw(*pipe, o), base);
  if (is_token(base)) return;  // one generator draws for the whole batch, so a single image gets other numbers

  o.adapters.reset();
  o.num_images_per_prompt = 3;
  o.seed = {1, 1, 1};
  o.adapters_per_image = {{{.name = "one"}}, {}, {{.name = "two"}}};
  auto batch = draw(*pipe, o);
  expect_close(batch[0], active[0], 1e-4);
  expect_close(batch[1], base[0], 1e-4);
  expect_close(batch[2], second[0], 1e-4);
}

TEST_P(PipelineBehaviour, ATrainedAdapterAloneGetsGradients) {
  auto pipe = tiny::open(GetParam());
  for (const auto& [component, model] : pipe->models()) {
    SCOPED_TRACE(component);
    auto name = pipe->create_adapter(
        component,
        {.r = 2, .lora_alpha = 4, .target_modules = kTargets, .init_lora_weights = CreateAdapterOptions::Init::random});
    EXPECT_GT(pipe->trainable_parameters(component, name).size(), 1u);
    for (const auto& [key, tensor] : pipe->trainable_parameters(component, name)) EXPECT_TRUE(tensor.requires_grad());
    for (const auto& [key, tensor] : model->state_dict()) EXPECT_FALSE(tensor.requires_grad()) << key;
    pipe->delete_adapters({name});
  }
}

TEST_P(PipelineBehaviour, TheFolderThatItSavesIsItself) {
  auto pipe = tiny::open(GetParam());
  TemporaryFolder folder;
  pipe->load_lora_weights(one(*pipe));
  pipe->fuse_lora();
  auto fused = draw(*pipe);
  pipe->save_pretrained(folder / "saved");
  auto again = DiffusionPipeline::from_pretrained(folder / "saved", {.dtype = at::kFloat});
  EXPECT_STREQ(again->class_name(), pipe->class_name());
  EXPECT_TRUE(again->get_list_adapters().empty());
  pipe->unload_lora_weights();
  EXPECT_TRUE(at::equal(draw(*again), fused));
}

// aMUSEd's depthwise convolutions.
// Their factors are not grouped convolutions, so the product is added to the weight.
TEST(AmusedBehaviour, ConvolutionsInGroupsTakeTheProductOfFactors) {
  auto pipe = tiny::open("amused-256");
  for (const auto& site : parts_of(*pipe->models().front().model).sites) {
    if (site->geometry.groups == 1) continue;
    auto base = site->weight.clone();
    auto A = at::randn({2, base.size(1), base.size(2), base.size(3)}), B = at::randn({base.size(0), 2, 1, 1});
    pipe->load_lora_weights(StateDict{{"transformer." + site->path + ".lora_A.weight", A},
                                      {"transformer." + site->path + ".lora_B.weight", B}});
    pipe->fuse_lora();
    expect_close(site->weight, base + at::mm(B.flatten(1), A.flatten(1)).view_as(base), 1e-6);
    pipe->unfuse_lora();
    EXPECT_TRUE(at::equal(site->weight, base));
    return;
  }
  ADD_FAILURE() << "the model has no such layer";
}

// Undoing any sequence of calls restores the file's bits.
TEST_P(PipelineBehaviour, RandomSequencesAreUndoneExactly) {
  for (auto dtype : {at::kFloat, at::kBFloat16}) {
    auto pipe = tiny::open(GetParam(), dtype);
    auto base = weights(*pipe);
    auto tensors = std::vector{one(*pipe), two(*pipe)};
    std::mt19937 random(7);
    auto pick = [&](int n) { return int(random() % unsigned(n)); };
    auto loaded = [&] {
      std::set<std::string> names;
      for (const auto& [component, own] : pipe->get_list_adapters()) names.insert(own.begin(), own.end());
      return Names(names.begin(), names.end());
    };
    for (int i = 0; i < 60; ++i) {
      auto names = loaded();
      auto component = pipe->models()[size_t(pick(int(pipe->models().size())))].name;
      auto some = [&] { return Names{names[size_t(pick(int(names.size())))]}; };
      switch (names.empty() ? 0 : pick(9)) {
        case 0: pipe->load_lora_weights(tensors[size_t(pick(2))]); break;
        case 1: pipe->set_adapters(names, {0.1 * pick(20) - 1}); break;
        case 2: pipe->fuse_lora({.lora_scale = 0.5 + 0.1 * pick(10), .adapter_names = some()}); break;
        case 3: pipe->fuse_lora({.components = {component}}); break;
        case 4: pipe->unfuse_lora({.components = {component}}); break;
        case 5: pipe->delete_adapters(some()); break;
        case 6: pipe->disable_lora(); break;
        case 7: pipe->enable_lora(); break;
        case 8: pipe->load_lora_weights(tensors[size_t(pick(2))], {.adapter_name = some()[0], .hotswap = true}); break;
      }
    }
    pipe->enable_lora();
    pipe->unfuse_lora();
    expect_same_weights(*pipe, base);
  }
}

INSTANTIATE_TEST_SUITE_P(All, PipelineBehaviour, testing::ValuesIn(tiny::names()), tiny::test_name);

}  // namespace lora
