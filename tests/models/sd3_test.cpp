#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include "lora/denoisers.h"
#include "models/reference_cases.h"
#include "models/runs.h"
#include "nn/site.h"
#include "support/compare.h"

namespace lora {
namespace {

constexpr double kFloat32Tolerance = 2e-6;

const reference::Cases<SD3Transformer2DModel> kCases("sd3");

// One recorded call's inputs.
struct Call {
  Tensor image, text, pooled, timestep;
  std::vector<int64_t> skip_layers;

  Call(const std::string& name, const std::string& run, Dtype dtype = at::kFloat) {
    const auto &config = kCases[name]["config"], &spec = kCases[name]["runs"][run];
    const int64_t n = spec["batch"];
    auto given = [&](const std::string& input, at::IntArrayRef shape) {
      return reference::input(name + "." + run + "." + input, shape).to(dtype);
    };
    image = given("hidden_states", {n, config["in_channels"], spec["size"][0], spec["size"][1]});
    text = given("encoder_hidden_states", {n, 5, config["joint_attention_dim"]});
    pooled = given("pooled_projections", {n, config["pooled_projection_dim"]});
    const auto& t = spec["timestep"];
    timestep = t.is_array() ? at::tensor(t.get<std::vector<double>>()) : at::scalar_tensor(t.get<double>());
    skip_layers = spec.value("skip_layers", std::vector<int64_t>());
  }

  Tensor operator()(const SD3Transformer2DModel& model) const {
    return model(image, text, pooled, timestep, skip_layers);
  }
};

// ---- What it computes -----------------------------------------------------------------------------------------------

TEST(SD3Transformer2DModel, ComputesWhatDiffusersComputes) {
  c10::InferenceMode inference;
  for (const auto& [name, reference_case] : kCases.all().items()) {
    auto model = kCases.make_from(reference_case);
    for (const auto& [run, spec] : reference_case["runs"].items())
      EXPECT_LT(distance(Call(name, run)(model), kCases.expected(name + "." + run)), kFloat32Tolerance)
          << name << " " << run;
  }
}

TEST(SD3Transformer2DModel, ComputesInHalfPrecisionAsWellAsDiffusers) {
  c10::InferenceMode inference;
  for (auto dtype : {at::kBFloat16, at::kHalf})
    for (std::string name : {"sd3", "sd35_medium", "sd35_large"}) {
      auto output = Call(name, "two", dtype)(kCases.make(name, dtype));
      SCOPED_TRACE(name + " " + to_string(dtype));
      expect_as_accurate(output, kCases.expected(name + ".two." + to_string(dtype)), kCases.expected(name + ".two"));
    }
}

// Timesteps of their own: what is computed for one image does not depend on the others.
TEST(SD3Transformer2DModel, TreatsEachImageByItself) {
  c10::InferenceMode inference;
  auto model = kCases.make("sd35_medium");
  Call both("sd35_medium", "two");
  auto second = both;
  for (auto* t : {&second.image, &second.text, &second.pooled, &second.timestep}) *t = t->slice(0, 1);
  EXPECT_LT(distance(second(model), both(model).slice(0, 1)), kFloat32Tolerance);
}

// Without gradients, results overwrite temporaries; that must not change them, nor the inputs.
TEST(SD3Transformer2DModel, GivesTheSameWithAndWithoutGradients) {
  for (std::string name : {"sd3", "sd35_medium", "sd35_large"}) {
    auto model = kCases.make(name);
    Call call(name, "two");
    auto before = call;
    for (auto* t : {&before.image, &before.text, &before.pooled}) *t = t->clone();
    auto with = call(model);
    c10::InferenceMode inference;
    EXPECT_TRUE(at::equal(with, call(model))) << name;
    EXPECT_TRUE(at::equal(before.image, call.image) && at::equal(before.text, call.text) &&
                at::equal(before.pooled, call.pooled))
        << name;
  }
}

TEST(SD3Transformer2DModel, HasTheGradientsOfWhatItComputes) {
  for (std::string name : {"sd3", "sd35_medium"}) {
    auto model = kCases.make(name, at::kDouble);
    Call call(name, "two", at::kDouble);
    auto direction = at::cos(call.text * 3);
    auto value = [&](double step) {
      auto moved = call;
      moved.text = call.text + step * direction;
      return at::sin(moved(model)).sum();
    };
    call.text.requires_grad_();
    value(0).backward();
    auto slope = (call.text.grad() * direction).sum().item<double>();

    c10::AutoGradMode off(false);
    constexpr double kStep = 1e-5;
    auto measured = ((value(kStep) - value(-kStep)) / (2 * kStep)).item<double>();
    EXPECT_NEAR(slope, measured, 1e-6 * std::abs(measured) + 1e-8) << name;
  }
}

// ---- What it is made of ---------------------------------------------------------------------------------------------

TEST(SD3Transformer2DModel, HasTheTensorsOfPublishedModels) { EXPECT_FALSE(kCases.full_size().empty()); }

TEST(SD3Transformer2DModel, ListsEveryWeightAsASite) {
  kCases.expect_sites(1);  // the position embeddings are not a site
  const auto model = kCases.make("sd35_medium");
  const auto& sites = parts_of(model);
  auto kind = [&](const std::string& path) { return sites.by_path.at(path)->kind; };
  EXPECT_EQ(kind("pos_embed.proj"), SiteKind::conv2d);
  EXPECT_EQ(kind("transformer_blocks.0.attn.add_q_proj"), SiteKind::linear);
  EXPECT_EQ(kind("transformer_blocks.0.attn2.to_out.0"), SiteKind::linear);
  EXPECT_EQ(kind("transformer_blocks.2.norm1_context.linear"), SiteKind::linear);
  EXPECT_EQ(kind("transformer_blocks.1.attn.norm_added_k"), SiteKind::norm);
}

// What applies in a run reaches every site of the model, each on its own.
TEST(SD3Transformer2DModel, UsesWhatAppliesAtEverySite) {
  c10::InferenceMode inference;
  auto model = kCases.make("sd35_medium");
  Call call("sd35_medium", "two");
  auto base = call(model);
  for (const auto& site : parts_of(model).sites) {
    const RunScope run(parts_of(model), run_with_weight(model, *site, site->weight * 1.5));
    // What the last block's text asks is not carried on.
    const bool unheard = site->path.ends_with("2.attn.add_q_proj") || site->path.ends_with("2.attn.norm_added_q");
    EXPECT_EQ(distance(call(model), base) > 1e-5, !unheard) << site->path;
  }
}

TEST(SD3Transformer2DModel, SaysWhatItIs) {
  auto model = kCases.make("unusual");
  EXPECT_EQ(model.class_name(), "SD3Transformer2DModel");
  EXPECT_EQ(model.in_channels(), 5);
  EXPECT_EQ(model.sample_size(), 8);
  EXPECT_EQ(model.patch_size(), 3);
  EXPECT_EQ(model.num_layers(), 2);
  EXPECT_EQ(model.joint_attention_dim(), 12);
}

TEST(SD3Transformer2DModel, SavedAndLoadedAgainIsTheSame) {
  c10::InferenceMode inference;
  TemporaryFolder folder;
  auto model = kCases.make("sd35_medium");
  model.save_pretrained(folder / "transformer");
  auto again = SD3Transformer2DModel::from_pretrained(folder / "transformer", {.dtype = at::kFloat});
  Call call("sd35_medium", "two");
  EXPECT_TRUE(at::equal(call(again), call(model)));
}

TEST(SD3Transformer2DModel, MakesRandomWeightsOfAnyConfig) {
  c10::InferenceMode inference;
  auto random = SD3Transformer2DModel::random(kCases["sd35_medium"]["config"].dump(), 1, {.dtype = at::kBFloat16});
  auto output = Call("sd35_medium", "two", at::kBFloat16)(random);
  EXPECT_TRUE(output.isfinite().all().item<bool>());
  EXPECT_GT(output.abs().max().item<double>(), 0);
}

// ---- Errors ---------------------------------------------------------------------------------------------------------

TEST(SD3Transformer2DModelErrors, NamesWhatItCannotDo) {
  const std::vector<std::tuple<std::string, json, ErrorKind>> values = {
      {"qk_norm", "layer_norm", ErrorKind::unsupported},    {"context_embedder_type", "linear", ErrorKind::unsupported},
      {"caption_projection_dim", 24, ErrorKind::bad_file},  {"num_layers", 0, ErrorKind::bad_file},
      {"num_layers", 100000, ErrorKind::bad_file},          {"patch_size", nullptr, ErrorKind::bad_file},
      {"pos_embed_max_size", nullptr, ErrorKind::bad_file}, {"dual_attention_layers", 3, ErrorKind::bad_file},
      {"dual_attention_layers", {-1}, ErrorKind::bad_file}, {"dual_attention_layers", {"0"}, ErrorKind::bad_file},
  };
  for (const auto& [field, value, kind] : values) kCases.expect_refused("sd3", field, value, kind);
}

TEST(SD3Transformer2DModelErrors, NamesTensorsThatDoNotFit) {
  auto c = kCases["sd3"];
  c["layers"]["pos_embed"]["pos_embed"][1] = 49;
  expect_error(ErrorKind::bad_shape,
               AllOf(HasSubstr("pos_embed.pos_embed"), HasSubstr("[1, 49, 16]"), HasSubstr("[1, 36, 16]")),
               [&] { kCases.make_from(c); });
  auto normed = kCases["sd3"];
  normed["config"]["qk_norm"] = "rms_norm";
  expect_error(ErrorKind::bad_key, HasSubstr("transformer_blocks.0.attn.norm_q.weight"),
               [&] { kCases.make_from(normed); });
  auto plain = kCases["sd35_large"];
  plain["config"]["qk_norm"] = nullptr;
  expect_error(ErrorKind::bad_key, HasSubstr("transformer_blocks.0.attn.norm_"), [&] { kCases.make_from(plain); });
}

TEST(SD3Transformer2DModelErrors, NamesInputsThatDoNotFit) {
  const auto model = kCases.make("sd3");
  const Call call("sd3", "two");
  auto expect = [&](const std::string& input, auto change) {
    auto wrong = call;
    change(wrong);
    expect_error(ErrorKind::usage, AllOf(HasSubstr(input + " must be"), HasSubstr("got")), [&] { wrong(model); });
  };
  expect("hidden_states", [](Call& x) { x.image = Tensor(); });
  expect("hidden_states", [](Call& x) { x.image = x.image[0]; });
  expect("hidden_states", [](Call& x) { x.image = x.image.to(at::kHalf); });
  expect("hidden_states", [](Call& x) { x.image = at::zeros({2, 5, 8, 8}); });
  expect("hidden_states", [](Call& x) { x.image = at::zeros({2, 4, 8, 7}); });
  expect("hidden_states", [](Call& x) { x.image = at::zeros({2, 4, 14, 8}); });
  expect("hidden_states", [](Call& x) { x.image = at::zeros({2, 4, 8, 0}); });
  expect("encoder_hidden_states", [](Call& x) { x.text = x.text.slice(0, 1); });
  expect("encoder_hidden_states", [](Call& x) { x.text = at::zeros({2, 5, 16}); });
  expect("encoder_hidden_states", [](Call& x) { x.text = Tensor(); });
  expect("pooled_projections", [](Call& x) { x.pooled = at::zeros({2, 12}); });
  expect("pooled_projections", [](Call& x) { x.pooled = x.pooled.to(at::kDouble); });
  expect("timestep", [](Call& x) { x.timestep = at::zeros({3}); });
  expect("timestep", [](Call& x) { x.timestep = Tensor(); });
  expect("skip_layers", [](Call& x) { x.skip_layers = {3}; });
  expect("skip_layers", [](Call& x) { x.skip_layers = {1, -1}; });
}

}  // namespace
}  // namespace lora
