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

constexpr double kFloat32Tolerance = 1e-5;

const reference::Cases<UNet2DConditionModel> kCases("unet");

// One recorded call's inputs.
struct Call {
  Tensor sample, timestep, context;
  UNetOptions options;

  Call(const std::string& label, const json& spec, int64_t channels, Dtype dtype = at::kFloat) {
    const int64_t n = spec["batch"];
    auto given = [&](const char* name, at::IntArrayRef shape) {
      return reference::input(label + "." + name, shape).to(dtype);
    };
    sample = given("sample", {n, channels, spec["size"][0], spec["size"][1]});
    context = given("context", {n, 5, 16});
    const auto& t = spec["timestep"];
    if (t.is_array())
      timestep = at::tensor(t.get<std::vector<int64_t>>());
    else
      timestep = t.is_number_integer() ? at::scalar_tensor(t.get<int64_t>(), at::kLong)
                                       : at::scalar_tensor(t.get<double>(), at::kDouble);
    if (spec.contains("timestep_cond")) options.timestep_cond = given("timestep_cond", {n, spec["timestep_cond"]});
    if (spec.contains("masked"))
      options.encoder_attention_mask = (reference::input(label + ".mask", {n, 5}) > 0).to(at::kLong);
    if (spec.contains("text_embeds")) {
      options.text_embeds = given("text_embeds", {n, spec["text_embeds"]});
      auto sizes = reference::input(label + ".time_ids", {n, spec["time_ids"]});
      options.time_ids = (sizes * 500).round().to(dtype);
    }
  }

  Tensor operator()(const UNet2DConditionModel& unet) const { return unet(sample, timestep, context, options); }
};

Call call(const std::string& name, const std::string& run, Dtype dtype = at::kFloat) {
  return {name + "." + run, kCases[name]["runs"][run], kCases[name]["config"].value("in_channels", 4), dtype};
}

// ---- What it computes -----------------------------------------------------------------------------------------------

TEST(UNet2DConditionModel, ComputesWhatDiffusersComputes) {
  c10::InferenceMode inference;
  for (const auto& [name, reference_case] : kCases.all().items()) {
    auto unet = kCases.make_from(reference_case);
    for (const auto& [run, spec] : reference_case["runs"].items()) {
      if (spec.contains("dtype")) continue;
      auto output = call(name, run)(unet);
      EXPECT_LT(distance(output, kCases.expected(name + "." + run)), kFloat32Tolerance) << name << " " << run;
    }
  }
}

TEST(UNet2DConditionModel, ComputesInBfloat16AsWellAsDiffusers) {
  c10::InferenceMode inference;
  for (std::string name : {"sd1", "sdxl"}) {
    auto output = call(name, "bfloat16", at::kBFloat16)(kCases.make(name, at::kBFloat16));
    SCOPED_TRACE(name);
    expect_as_accurate(output, kCases.expected(name + ".bfloat16"), kCases.expected(name + ".bfloat16.float32"));
  }
}

TEST(UNet2DConditionModel, LoadsFilesOfEveryDtype) {
  c10::InferenceMode inference;
  const std::map<std::string, std::pair<std::string, std::string>> saved = {
      {"sd1", {"two", ""}}, {"sd2", {"one", ""}}, {"sdxl", {"two", "fp16"}}};
  for (const auto& [name, run_and_variant] : saved) {
    auto unet = UNet2DConditionModel::from_pretrained(reference::data("unet/" + name),
                                                      {.dtype = at::kFloat, .variant = run_and_variant.second});
    auto output = call(name, run_and_variant.first)(unet);
    EXPECT_LT(distance(output, kCases.expected(name + ".saved")), kFloat32Tolerance) << name;
    EXPECT_EQ(unet.class_name(), "UNet2DConditionModel");
    EXPECT_EQ(unet.dtype(), at::kFloat);
    EXPECT_EQ(unet.in_channels(), 4);
  }
}

TEST(UNet2DConditionModel, KnowsItsSizes) {
  EXPECT_EQ(kCases.make("sd1").sample_size(), 8);
  EXPECT_EQ(kCases.make("sd2").sample_size(), 0);
  EXPECT_EQ(kCases.make("inpaint").in_channels(), 9);
  EXPECT_EQ(kCases.make("lcm").time_cond_proj_dim(), 12);
  EXPECT_EQ(kCases.make("sd1").time_cond_proj_dim(), 0);
}

// Without gradients, results overwrite temporaries; that must not change them, nor the inputs.
TEST(UNet2DConditionModel, GivesTheSameWithAndWithoutGradients) {
  for (std::string name : {"sd1", "sd2", "unusual"}) {
    auto unet = kCases.make(name);
    auto c = call(name, name == "sd1" ? "two" : "one");
    auto sample = c.sample.clone(), context = c.context.clone();
    auto with = c(unet);
    c10::InferenceMode inference;
    EXPECT_TRUE(at::equal(with, c(unet))) << name;
    EXPECT_TRUE(at::equal(sample, c.sample) && at::equal(context, c.context)) << name;
  }
}

TEST(UNet2DConditionModel, HasTheGradientsOfWhatItComputes) {
  for (std::string name : {"sd1", "sdxl", "unusual"}) {
    auto unet = kCases.make(name, at::kDouble);
    auto c = call(name, name == "unusual" ? "one" : "two", at::kDouble);
    auto direction = at::cos(c.sample * 3);
    auto value = [&](double step) {
      auto moved = c;
      moved.sample = c.sample + step * direction;
      return at::sin(moved(unet)).sum();
    };
    auto& weight = parts_of(unet).by_path.at("mid_block.attentions.0.transformer_blocks.0.attn1.to_k")->weight;
    weight.requires_grad_();
    c.sample.requires_grad_();
    value(0).backward();
    auto slope = (c.sample.grad() * direction).sum().item<double>();

    c10::AutoGradMode off(false);
    constexpr double kStep = 1e-5;
    auto measured = ((value(kStep) - value(-kStep)) / (2 * kStep)).item<double>();
    EXPECT_NEAR(slope, measured, 1e-6 * std::abs(measured) + 1e-8) << name;

    auto push = weight.grad() / weight.grad().norm();
    auto predicted = (weight.grad() * push).sum().item<double>();
    weight.add_(push, kStep);
    auto above = value(0).item<double>();
    weight.sub_(push, 2 * kStep);
    EXPECT_NEAR(predicted, (above - value(0).item<double>()) / (2 * kStep), 1e-6 * predicted + 1e-8) << name;
  }
}

// ---- What it is made of ---------------------------------------------------------------------------------------------

TEST(UNet2DConditionModel, HasTheTensorsOfPublishedModels) { EXPECT_FALSE(kCases.full_size().empty()); }

TEST(UNet2DConditionModel, ListsEveryWeightAsASite) {
  kCases.expect_sites();
  const auto model = kCases.make("sd1");
  const auto& sites = parts_of(model);
  auto kind = [&](const std::string& path) { return sites.by_path.at(path)->kind; };
  EXPECT_EQ(kind("down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0"), SiteKind::linear);
  EXPECT_EQ(kind("down_blocks.0.attentions.0.transformer_blocks.0.ff.net.0.proj"), SiteKind::linear);
  EXPECT_EQ(kind("down_blocks.0.attentions.0.proj_in"), SiteKind::conv2d);
  EXPECT_EQ(kind("up_blocks.1.attentions.1.transformer_blocks.0.norm2"), SiteKind::norm);
  EXPECT_EQ(kind("time_embedding.linear_1"), SiteKind::linear);
  EXPECT_EQ(sites.by_path.at("down_blocks.0.downsamplers.0.conv")->geometry.stride, (std::vector<int64_t>{2, 2}));
}

// What applies in a run reaches every site of the model, each on its own.
TEST(UNet2DConditionModel, UsesWhatAppliesAtEverySite) {
  c10::InferenceMode inference;
  auto unet = kCases.make("sdxl");
  auto c = call("sdxl", "two");
  auto base = c(unet);
  for (const auto& site : parts_of(unet).sites) {
    const RunScope run(parts_of(unet), run_with_weight(unet, *site, site->weight * 1.5));
    EXPECT_GT(distance(c(unet), base), 1e-5) << site->path;
  }
  EXPECT_TRUE(at::equal(c(unet), base));
}

TEST(UNet2DConditionModel, MakesRandomWeightsOfAnyConfig) {
  auto config = kCases["sdxl"]["config"].dump();
  auto a = UNet2DConditionModel::random(config, 1), b = UNet2DConditionModel::random(config, 1);
  auto c = UNet2DConditionModel::random(config, 2, {.dtype = at::kBFloat16});
  EXPECT_EQ(a.dtype(), at::kFloat);
  EXPECT_EQ(c.dtype(), at::kBFloat16);
  for (const auto& [name, t] : a.state_dict()) EXPECT_TRUE(at::equal(t, b.state_dict().at(name))) << name;
  EXPECT_FALSE(at::allclose(a.state_dict().at("conv_in.weight"), c.state_dict().at("conv_in.weight").to(at::kFloat)));
  EXPECT_TRUE(call("sdxl", "two")(a).isfinite().all().item<bool>());
}

// ---- Errors ---------------------------------------------------------------------------------------------------------

json changed(const std::string& name, const json& changes) {
  auto c = kCases[name];
  c["config"].merge_patch(changes);
  for (const auto& [field, value] : changes.items()) c["config"][field] = value;  // a patch removes what is null
  return c;
}

TEST(UNet2DConditionModelErrors, NamesUnsupportedValues) {
  const std::vector<std::pair<std::string, json>> values = {
      {"class_embed_type", "timestep"},
      {"num_class_embeds", 1000},
      {"class_embeddings_concat", true},
      {"addition_embed_type", "text"},
      {"encoder_hid_dim", 512},
      {"encoder_hid_dim_type", "image_proj"},
      {"time_embedding_type", "fourier"},
      {"attention_type", "gated"},
      {"dual_cross_attention", true},
      {"num_attention_heads", 8},
      {"resnet_time_scale_shift", "spatial"},
      {"mid_block_type", "UNetMidBlock2DSimpleCrossAttn"},
      {"down_block_types", {"CrossAttnDownBlock2D", "AttnDownBlock2D"}},
      {"up_block_types", {"UpBlock2D", "KUpBlock2D"}},
      {"act_fn", "snake"},
      {"downsample_padding", 2},
      {"sample_size", {64, 96}},
  };
  for (const auto& [field, value] : values)
    expect_error(
        ErrorKind::unsupported,
        AllOf(HasSubstr("state dict"), HasSubstr('"' + field + '"'), HasSubstr(value.dump()), HasSubstr("supported: ")),
        [&] {
          kCases.make_from(changed("sd1", {{field, value}}));
        });
}

TEST(UNet2DConditionModelErrors, NamesValuesThatMakeNoSense) {
  const std::vector<std::pair<std::string, json>> values = {
      {"in_channels", "four"},
      {"in_channels", 0},
      {"in_channels", -4},
      {"in_channels", 1e30},
      {"layers_per_block", {1, 1, 1}},
      {"layers_per_block", nullptr},
      {"attention_head_dim", 3},
      {"attention_head_dim", 0},
      {"block_out_channels", json::array()},
      {"block_out_channels", {8, {16}}},
      {"norm_num_groups", 3},
      {"norm_num_groups", nullptr},
      {"norm_eps", "small"},
      {"use_linear_projection", 1},
      {"cross_attention_dim", nullptr},
      {"up_block_types", {"UpBlock2D"}},
      {"down_block_types", "DownBlock2D"},
      {"transformer_layers_per_block", {1, {1}}},
      {"transformer_layers_per_block", -1},
      {"reverse_transformer_layers_per_block", {1, {1}}},
      {"only_cross_attention", {true}},
  };
  for (const auto& [field, value] : values)
    expect_error(ErrorKind::bad_file,
                 AllOf(HasSubstr("state dict"), HasSubstr('"' + field + '"'), HasSubstr("must be")), [&] {
                   kCases.make_from(changed("sd1", {{field, value}}));
                 });
  expect_error(ErrorKind::bad_file, HasSubstr("\"addition_time_embed_dim\""), [&] {
    kCases.make_from(changed("sd1", {{"addition_embed_type", "text_time"}}));
  });
  for (std::string text : {"", "[]", "{", "nonsense", "\"a\""})
    expect_error(ErrorKind::bad_file, HasSubstr("not a JSON object"),
                 [&] { UNet2DConditionModel::from_state_dict(text, {}); });
}

TEST(UNet2DConditionModelErrors, NamesUnknownFields) {
  expect_error(ErrorKind::unsupported,
               AllOf(HasSubstr("\"use_linear_projections\""), HasSubstr("did you mean \"use_linear_projection\"?")),
               [] {
                 kCases.make_from(changed("sd1", {{"use_linear_projections", true}}));
               });
  expect_error(ErrorKind::unsupported, HasSubstr("\"rope_theta\" is unknown"), [] {
    kCases.make_from(changed("sd1", {{"rope_theta", 1}}));
  });
  EXPECT_NO_THROW(kCases.make_from(changed("sd1", {{"_name_or_path", "somewhere"}, {"dropout", 0.5}})));
}

TEST(UNet2DConditionModelErrors, NamesTensorsThatDoNotFit) {
  const auto config = kCases["sd1"]["config"].dump();
  const auto whole = reference::tensors_of(kCases["sd1"]["layers"]);
  const std::string name = "mid_block.resnets.1.conv2.bias";

  StateDict without, misshapen = whole, more = whole;
  for (const auto& [key, t] : whole)
    if (key != name) without.set(key, t);
  misshapen.set(name, at::zeros({7}));
  more.set("mid_block.resnets.2.conv2.bias", at::zeros({7}));

  auto load = [&](const StateDict& tensors) {
    return [&] { UNet2DConditionModel::from_state_dict(config, tensors, {}, "some/unet"); };
  };
  expect_error(ErrorKind::bad_key, AllOf(HasSubstr("some/unet"), HasSubstr(name)), load(without));
  expect_error(ErrorKind::bad_shape,
               AllOf(HasSubstr("some/unet"), HasSubstr(name), HasSubstr("[7]"), HasSubstr("[16]")), load(misshapen));
  expect_error(ErrorKind::bad_key, AllOf(HasSubstr("some/unet"), HasSubstr("mid_block.resnets.2.conv2.bias")),
               load(more));
}

TEST(UNet2DConditionModelErrors, NamesInputsThatDoNotFit) {
  const auto c = call("sdxl", "two");
  const auto unet = kCases.make("sdxl");
  auto expect = [&](const std::string& input, auto change) {
    auto wrong = c;
    change(wrong);
    expect_error(ErrorKind::usage, AllOf(HasSubstr(input + " must be"), HasSubstr("got")), [&] { wrong(unet); });
  };
  expect("sample", [](Call& x) { x.sample = x.sample[0]; });
  expect("sample", [](Call& x) { x.sample = at::zeros({2, 9, 8, 8}); });
  expect("sample", [](Call& x) { x.sample = x.sample.to(at::kDouble); });
  expect("timestep", [](Call& x) { x.timestep = at::zeros({3}); });
  expect("encoder_hidden_states", [](Call& x) { x.context = x.context[0].unsqueeze(0); });
  expect("encoder_hidden_states", [](Call& x) { x.context = at::zeros({2, 5, 24}); });
  expect("encoder_hidden_states", [](Call& x) { x.context = Tensor(); });
  expect("encoder_attention_mask", [](Call& x) { x.options.encoder_attention_mask = at::ones({2, 6}); });
  expect("timestep_cond", [](Call& x) { x.options.timestep_cond = at::ones({2, 12}); });
  expect("text_embeds", [](Call& x) { x.options.text_embeds = Tensor(); });
  expect("time_ids", [](Call& x) { x.options.time_ids = at::ones({2, 5}); });
}

}  // namespace
}  // namespace lora
