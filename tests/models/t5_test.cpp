#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include "lora/text_encoders.h"
#include "models/reference_cases.h"
#include "models/runs.h"
#include "nn/site.h"
#include "support/compare.h"

namespace lora {
namespace {

constexpr double kFloat32Tolerance = 2e-6;
const std::string kShared = "shared.weight", kEmbedding = "encoder.embed_tokens.weight";

const reference::Cases<T5EncoderModel> kCases("t5");

Tensor ids_of(const std::string& name, const std::string& run) {
  auto shape = kCases[name]["runs"][run].get<std::vector<int64_t>>();
  return reference::tokens(name + "." + run + ".ids", shape, 40);
}

// ---- What it computes -----------------------------------------------------------------------------------------------

TEST(T5EncoderModel, ComputesWhatTransformersComputes) {
  c10::InferenceMode inference;
  for (const auto& [name, reference_case] : kCases.all().items()) {
    if (reference_case["runs"].empty()) continue;
    auto model = kCases.make(name);
    for (const auto& [run, shape] : reference_case["runs"].items())
      EXPECT_LT(distance(model(ids_of(name, run)), kCases.expected(name + "." + run)), kFloat32Tolerance)
          << name << " " << run;
  }
}

TEST(T5EncoderModel, ComputesInHalfPrecisionAsWellAsTransformers) {
  c10::InferenceMode inference;
  for (auto dtype : {at::kBFloat16, at::kHalf})
    for (std::string name : {"v1_0", "v1_1"}) {
      auto output = kCases.make(name, dtype)(ids_of(name, "short"));
      SCOPED_TRACE(name + " " + to_string(dtype));
      auto theirs = kCases.expected(name + ".short." + to_string(dtype));
      expect_as_accurate(output, theirs, kCases.expected(name + ".short"), 2);
    }
}

// The sums of the largest T5s pass 65504, above which float16 has nothing.
TEST(T5EncoderModel, AddsUpBeyondTheRangeOfFloat16) {
  c10::InferenceMode inference;
  auto tensors = kCases.tensors_of("v1_1");
  StateDict large;
  for (const auto& [name, t] : tensors) large.set(name, name.ends_with("wo.weight") ? t * 2e5 : t);
  auto config = kCases["v1_1"]["config"].dump();
  auto ids = ids_of("v1_1", "short");
  auto exact = T5EncoderModel::from_state_dict(config, large, {.dtype = at::kFloat})(ids);
  auto half = T5EncoderModel::from_state_dict(config, large, {.dtype = at::kHalf});
  EXPECT_LT(distance(half(ids), exact), 1e-2);
  const std::string path = "encoder.block.0.layer.1.DenseReluDense.";
  EXPECT_EQ(half.state_dict().at(path + "wo.weight").scalar_type(), at::kFloat);
  EXPECT_EQ(half.state_dict().at(path + "wi_0.weight").scalar_type(), at::kHalf);
  EXPECT_EQ(half.dtype(), at::kHalf);
}

TEST(T5EncoderModel, GivesTheSameWithAndWithoutGradients) {
  for (std::string name : {"v1_0", "v1_1"}) {
    auto model = kCases.make(name);
    auto with = model(ids_of(name, "short"));
    c10::InferenceMode inference;
    EXPECT_TRUE(at::equal(with, model(ids_of(name, "short")))) << name;
  }
}

// ---- What it is made of ---------------------------------------------------------------------------------------------

TEST(T5EncoderModel, HasTheTensorsOfThePublishedModel) {
  auto tensors = reference::tensors_of(kCases["xxl"]["layers"], reference::meta);
  auto model = T5EncoderModel::from_state_dict(kCases["xxl"]["config"].dump(), tensors,
                                               {.dtype = at::kBFloat16, .device = at::kMeta});
  EXPECT_EQ(model.state_dict().size(), tensors.size());
  EXPECT_EQ(model.d_model(), 4096);
}

TEST(T5EncoderModel, TakesTheEmbeddingUnderEitherNameOrBoth) {
  c10::InferenceMode inference;
  const auto shared = kCases.tensors_of("v1_1");
  ASSERT_TRUE(shared.contains(kShared));
  StateDict own, both = shared, differing = shared;
  for (const auto& [name, t] : shared) own.set(name == kShared ? kEmbedding : name, t);
  both.set(kEmbedding, shared.at(kShared));
  differing.set(kEmbedding, shared.at(kShared));
  differing.set(kShared, shared.at(kShared) + 1);  // transformers too reads the other one then

  auto ids = ids_of("v1_1", "short");
  for (const auto& tensors : {shared, own, both, differing}) {
    auto model = T5EncoderModel::from_state_dict(kCases["v1_1"]["config"].dump(), tensors, {.dtype = at::kFloat});
    EXPECT_LT(distance(model(ids), kCases.expected("v1_1.short")), kFloat32Tolerance);
    EXPECT_TRUE(model.state_dict().contains(kEmbedding));
    EXPECT_EQ(model.state_dict().size(), shared.size());
  }
}

TEST(T5EncoderModel, ListsEveryWeightAsASite) {
  for (std::string name : {"v1_0", "v1_1"}) {
    auto model = kCases.make(name);
    EXPECT_EQ(parts_of(model).sites.size(), model.state_dict().size());
    for (const auto& site : parts_of(model).sites)
      EXPECT_TRUE(model.state_dict().contains(site->path + ".weight")) << site->path;
  }
  const auto model = kCases.make("v1_1");
  const auto& sites = parts_of(model);
  auto kind = [&](const std::string& path) { return sites.by_path.at(path)->kind; };
  EXPECT_EQ(kind("encoder.embed_tokens"), SiteKind::embedding);
  EXPECT_EQ(kind("encoder.block.0.layer.0.SelfAttention.relative_attention_bias"), SiteKind::embedding);
  EXPECT_EQ(kind("encoder.block.1.layer.0.SelfAttention.q"), SiteKind::linear);
  EXPECT_EQ(kind("encoder.block.1.layer.1.DenseReluDense.wi_1"), SiteKind::linear);
  EXPECT_EQ(kind("encoder.block.1.layer.1.layer_norm"), SiteKind::norm);
  EXPECT_EQ(parts_of(kCases.make("v1_0")).by_path.count("encoder.block.1.layer.1.DenseReluDense.wi"), 1u);
}

// What applies in a run reaches every site of the model, each on its own.
TEST(T5EncoderModel, UsesWhatAppliesAtEverySite) {
  c10::InferenceMode inference;
  for (auto dtype : {at::kFloat, at::kHalf}) {
    auto model = kCases.make("v1_1", dtype);
    auto ids = ids_of("v1_1", "short");
    auto base = model(ids);
    for (const auto& site : parts_of(model).sites) {
      const RunScope run(parts_of(model), run_with_weight(model, *site, site->weight * 1.5));
      EXPECT_GT(distance(model(ids), base), 1e-3) << site->path;
    }
  }
}

TEST(T5EncoderModel, SavedAndLoadedAgainIsTheSame) {
  c10::InferenceMode inference;
  TemporaryFolder folder;
  auto model = kCases.make("v1_1", at::kHalf);
  model.save_pretrained(folder / "text_encoder_3");
  EXPECT_TRUE(std::filesystem::exists(folder / "text_encoder_3/model.safetensors"));
  auto again = T5EncoderModel::from_pretrained(folder / "text_encoder_3", {.dtype = at::kHalf});
  EXPECT_EQ(again.class_name(), "T5EncoderModel");
  EXPECT_TRUE(at::equal(again(ids_of("v1_1", "short")), model(ids_of("v1_1", "short"))));
}

TEST(T5EncoderModel, MakesRandomWeightsOfAnyConfig) {
  for (auto dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
    auto output = T5EncoderModel::random(kCases["v1_1"]["config"].dump(), 1, {.dtype = dtype})(ids_of("v1_1", "long"));
    EXPECT_TRUE(output.isfinite().all().item<bool>());
    EXPECT_GT(output.abs().max().item<double>(), 0);
  }
}

// ---- Errors ---------------------------------------------------------------------------------------------------------

TEST(T5EncoderModelErrors, NamesWhatItCannotDo) {
  const std::vector<std::tuple<std::string, json, ErrorKind>> values = {
      {"feed_forward_proj", "gated-silu", ErrorKind::unsupported},
      {"model_type", "umt5", ErrorKind::unsupported},
      {"architectures", {"UMT5EncoderModel"}, ErrorKind::unsupported},
      {"is_decoder", true, ErrorKind::unsupported},
      {"quantization_config", {{"bits", 4}}, ErrorKind::unsupported},
      {"rope_theta", 1e4, ErrorKind::unsupported},
      {"d_model", "16", ErrorKind::bad_file},
      {"num_layers", 0, ErrorKind::bad_file},
      {"relative_attention_num_buckets", 3, ErrorKind::bad_file},
      {"relative_attention_max_distance", 8, ErrorKind::bad_file},
  };
  for (const auto& [field, value, kind] : values) {
    auto config = kCases["v1_1"]["config"];
    config[field] = value;
    EXPECT_THAT(error_of(kind, [&] { T5EncoderModel::random(config.dump(), 0); }), HasSubstr('"' + field + '"'));
  }
}

TEST(T5EncoderModelErrors, NamesTensorsThatDoNotFit) {
  auto load = [](const StateDict& tensors, const json& changes = json::object()) {
    auto config = kCases["v1_1"]["config"];
    config.update(changes);
    return [=] { T5EncoderModel::from_state_dict(config.dump(), tensors); };
  };
  auto tensors = kCases.tensors_of("v1_1");
  StateDict without;
  for (const auto& [name, t] : tensors)
    if (name != kShared) without.set(name, t);
  EXPECT_THAT(error_of(ErrorKind::bad_key, load(without)), HasSubstr(kEmbedding));
  EXPECT_THAT(error_of(ErrorKind::bad_key, load(tensors, {{"num_layers", 1}})), HasSubstr("encoder.block.1."));
  EXPECT_THAT(error_of(ErrorKind::bad_key, load(tensors, {{"feed_forward_proj", "relu"}})), HasSubstr("wi.weight"));
  EXPECT_THAT(error_of(ErrorKind::bad_shape, load(tensors, {{"d_ff", 32}})), HasSubstr("wi_0.weight"));
}

TEST(T5EncoderModelErrors, NamesIdsThatDoNotFit) {
  auto model = kCases.make("v1_1");
  auto run = [&](const Tensor& ids) { return error_of(ErrorKind::usage, [&] { model(ids); }); };
  EXPECT_THAT(run(Tensor()), AllOf(HasSubstr("input_ids must be int64"), HasSubstr("got an undefined tensor")));
  EXPECT_THAT(run(at::zeros({1, 2})), HasSubstr("got Float [1, 2]"));
  EXPECT_THAT(run(at::zeros({2}, at::kLong)), HasSubstr("input_ids must be int64"));
  EXPECT_THAT(run(at::zeros({1, 0}, at::kLong)), HasSubstr("input_ids must be int64"));
  EXPECT_THAT(run(at::full({1, 2}, 40, at::kLong)),
              HasSubstr("values 40 to 40, but the text encoder's vocabulary has 0 to 39"));
  EXPECT_THAT(run(at::full({1, 2}, -1, at::kLong)), HasSubstr("values -1"));
}

}  // namespace
}  // namespace lora
