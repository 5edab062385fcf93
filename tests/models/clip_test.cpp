#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "lora/error.h"
#include "lora/text_encoders.h"
#include "models/errors.h"
#include "models/parts_of.h"
#include "models/reference_model.h"
#include "nn/site.h"
#include "support/compare.h"
#include "support/folder.h"

namespace lora {

using nlohmann::json;
using testing::HasSubstr;
using testing::StartsWith;

namespace {

const std::string kModels[] = {"sd1", "sd2", "projection"};
constexpr double kClose = 1e-6;  // of the largest value

CLIPTextModel load(const std::string& name, Dtype dtype = at::kFloat) {
  return CLIPTextModel::from_pretrained(reference::data("clip/" + name), {.dtype = dtype});
}

StateDict expected_of(const std::string& name) {
  return load_state_dict(reference::data("clip/" + name + "/expected.safetensors"));
}

// A small config with some fields changed.
std::string config(const json& changes = json::object()) {
  json fields = {{"vocab_size", 10},       {"hidden_size", 8},         {"intermediate_size", 16},
                 {"num_hidden_layers", 1}, {"num_attention_heads", 2}, {"max_position_embeddings", 6}};
  fields.update(changes);
  return fields.dump();
}

}  // namespace

TEST(Clip, OutputsAreTransformers) {
  for (const auto& name : kModels) {
    SCOPED_TRACE(name);
    auto model = load(name);
    auto expected = expected_of(name);
    auto out = model(expected.at("ids"));
    EXPECT_LT(distance(out.last_hidden_state, expected.at("last_hidden_state")), kClose);
    ASSERT_EQ(out.hidden_states.size(), static_cast<size_t>(model.num_hidden_layers() + 1));
    for (size_t i = 0; i < out.hidden_states.size(); ++i)
      EXPECT_LT(distance(out.hidden_states[i], expected.at("hidden_states." + std::to_string(i))), kClose);
    if (name == "projection")
      EXPECT_LT(distance(out.text_embeds, expected.at("text_embeds")), kClose);
    else
      EXPECT_LT(distance(out.pooler_output, expected.at("pooler_output")), kClose);
    EXPECT_EQ(out.text_embeds.defined(), name == "projection");

    auto fewer = model(expected.at("short.ids")).last_hidden_state;
    EXPECT_LT(distance(fewer, expected.at("short.last_hidden_state")), kClose);
  }
}

TEST(Clip, ClipSkipIsDiffusers) {
  for (const auto& name : kModels) {
    auto model = load(name);
    auto expected = expected_of(name);
    auto ids = expected.at("ids");
    EXPECT_TRUE(at::equal(model.encode(ids), model(ids).last_hidden_state));
    for (int skip = 0; skip <= model.num_hidden_layers(); ++skip)
      EXPECT_LT(distance(model.encode(ids, skip), expected.at("clip_skip." + std::to_string(skip))), kClose)
          << name << " " << skip;
  }
}

TEST(Clip, BFloat16StaysWithinItsRounding) {
  for (const auto& name : kModels) {
    SCOPED_TRACE(name);
    auto model = load(name, at::kBFloat16);
    auto expected = expected_of(name);
    auto out = model(expected.at("ids"));
    EXPECT_EQ(out.last_hidden_state.scalar_type(), at::kBFloat16);
    EXPECT_LT(distance(out.hidden_states[1], expected.at("bfloat16.hidden_states.1")), 1.0 / 128);
    EXPECT_LT(distance(out.last_hidden_state, expected.at("bfloat16.last_hidden_state")), 1.0 / 64);
  }
}

TEST(Clip, PathsHaveTheTextModelLevelWhateverTheFileHas) {
  auto folder = reference::data("clip/sd1");
  auto without = load_state_dict(folder / "model.safetensors");
  ASSERT_TRUE(without.contains("encoder.layers.0.self_attn.q_proj.weight"));
  StateDict with;
  for (const auto& [name, t] : without) with.set("text_model." + name, t);
  with.set("text_model.embeddings.position_ids", at::arange(12).unsqueeze(0));  // as early versions saved

  auto text = reference::read("clip/sd1/config.json").dump();
  auto ids = expected_of("sd1").at("ids");
  auto a = load("sd1"), b = CLIPTextModel::from_state_dict(text, with, {.dtype = at::kFloat});
  EXPECT_TRUE(at::equal(a.encode(ids), b.encode(ids)));
  for (const auto* each : {&a, &b}) {
    const auto& model = *each;
    EXPECT_EQ(model.state_dict().size(), without.size());
    EXPECT_TRUE(model.state_dict().contains("text_model.encoder.layers.0.self_attn.q_proj.weight"));
    auto& sites = parts_of(model).by_path;
    EXPECT_EQ(sites.size(), 2 + 3 * 8 + 1u);
    for (auto path : {"text_model.embeddings.token_embedding", "text_model.encoder.layers.2.mlp.fc2",
                      "text_model.encoder.layers.0.self_attn.out_proj", "text_model.final_layer_norm"})
      EXPECT_TRUE(sites.contains(path)) << path;
  }
  EXPECT_TRUE(parts_of(load("projection")).by_path.contains("text_projection"));
}

TEST(Clip, SaysWhatItIs) {
  auto model = load("projection");
  EXPECT_EQ(model.class_name(), "CLIPTextModelWithProjection");
  EXPECT_EQ(load("sd1").class_name(), "CLIPTextModel");
  EXPECT_EQ(model.hidden_size(), 16);
  EXPECT_EQ(model.max_position_embeddings(), 12);
  EXPECT_EQ(model.num_hidden_layers(), 2);
  EXPECT_EQ(model.dtype(), at::kFloat);
}

TEST(Clip, SavedAndLoadedAgainIsTheSame) {
  for (const auto& name : kModels) {
    TemporaryFolder folder;
    auto model = load(name);
    model.save_pretrained(folder / "text_encoder");
    EXPECT_TRUE(std::filesystem::exists(folder / "text_encoder/model.safetensors"));
    auto again = CLIPTextModel::from_pretrained(folder / "text_encoder", {.dtype = at::kFloat});
    EXPECT_EQ(json::parse(again.config()), json::parse(model.config()));
    EXPECT_EQ(again.class_name(), model.class_name());
    ASSERT_EQ(again.state_dict().size(), model.state_dict().size());
    for (const auto& [key, t] : model.state_dict()) EXPECT_TRUE(at::equal(t, again.state_dict().at(key))) << key;
    EXPECT_EQ(load_state_dict(folder / "text_encoder/model.safetensors").metadata.at("format"), "pt");
  }
}

TEST(Clip, WrongIdsAreNamed) {
  auto model = CLIPTextModel::random(config(), 0);
  auto run = [&](const Tensor& ids) { return error_of([&] { model(ids); }); };
  EXPECT_THAT(run(at::zeros({1, 7}, at::kLong)),
              StartsWith("usage: input_ids has 7 tokens, but the text encoder takes at "
                         "most 6"));
  EXPECT_THAT(run(at::full({1, 2}, 10, at::kLong)),
              HasSubstr("values 10 to 10, but the text encoder's vocabulary has 0 to 9"));
  EXPECT_THAT(run(at::full({1, 2}, -1, at::kLong)), StartsWith("usage: input_ids has values -1"));
  EXPECT_THAT(run(at::zeros({2}, at::kLong)), StartsWith("usage: input_ids must be int64"));
  EXPECT_THAT(run(at::zeros({1, 2})), StartsWith("usage: input_ids must be int64"));
  EXPECT_THAT(run(at::zeros({0, 2}, at::kLong)), StartsWith("usage: input_ids must be int64"));
  EXPECT_THAT(run(Tensor()), StartsWith("usage: input_ids must be int64"));
  EXPECT_EQ(run(at::zeros({1, 6}, at::kLong)), "");
}

TEST(Clip, ClipSkipOutOfRangeIsNamed) {
  auto model = CLIPTextModel::random(config(), 0);
  auto ids = at::zeros({1, 2}, at::kLong);
  EXPECT_EQ(error_of([&] { model.encode(ids, 2); }),
            "usage: clip_skip is 2; it must be from 0 to 1, the number of layers of the text encoder");
  EXPECT_THAT(error_of([&] { model.encode(ids, -1); }), StartsWith("usage: clip_skip is -1"));
}

TEST(Clip, ConfigsThatAskForSomethingElseAreRefused) {
  auto make = [](const json& changes) { return error_of([&] { CLIPTextModel::random(config(changes), 0); }); };
  EXPECT_EQ(make({{"transformers_version", "5.23.0"}, {"torch_dtype", "float16"}, {"attention_dropout", 0.1}}), "");
  EXPECT_THAT(make({{"hidden_act", "relu2"}}), HasSubstr("\"hidden_act\" is \"relu2\"; supported: "));
  EXPECT_THAT(make({{"hidden_act", "relu2"}}), StartsWith("unsupported: "));
  EXPECT_THAT(make({{"model_type", "t5"}}), HasSubstr("\"model_type\" is \"t5\""));
  EXPECT_THAT(make({{"architectures", {"CLIPModel"}}}), HasSubstr("\"architectures\" is [\"CLIPModel\"]"));
  EXPECT_THAT(make({{"quantization_config", {{"bits", 4}}}}), StartsWith("unsupported: "));
  EXPECT_THAT(make({{"tie_last_hidden_states", true}}), StartsWith("unsupported: "));
  EXPECT_THAT(make({{"eos_token_id", {1, 2}}}), StartsWith("bad_file: "));
  EXPECT_THAT(make({{"hidden_size", "8"}}), StartsWith("bad_file: "));
  EXPECT_THAT(make({{"hidden_size", 0}}), StartsWith("bad_file: "));
  EXPECT_THAT(make({{"num_attention_heads", 3}}), StartsWith("bad_file: "));
  EXPECT_THAT(error_of([] { CLIPTextModel::random("[]", 0); }), StartsWith("bad_file: "));
}

TEST(Clip, AConfigThatDoesNotFitTheFileIsRefused) {
  auto text = reference::read("clip/sd1/config.json");
  auto tensors = load_state_dict(reference::data("clip/sd1/model.safetensors"));
  auto with = [&](const char* field, int value) {
    auto changed = text;
    changed[field] = value;
    return error_of([&] { CLIPTextModel::from_state_dict(changed.dump(), tensors); });
  };
  EXPECT_THAT(with("num_hidden_layers", 2),
              HasSubstr("the model does not have layers for encoder.layers.2.layer_norm1.bias"));
  EXPECT_THAT(with("num_hidden_layers", 4), StartsWith("bad_key: "));
  EXPECT_THAT(with("intermediate_size", 33), StartsWith("bad_shape: "));
}

TEST(Clip, TheProjectsOwnTextEncoderLoads) {
  auto folder = std::filesystem::path(LORA_SOURCE_DIR) / "models/tiny/text_encoder";
  if (!std::filesystem::exists(folder)) GTEST_SKIP() << folder << " is not there";
  auto model = CLIPTextModel::from_pretrained(folder);
  auto y = model.encode(at::tensor({5517, 1, 2, 5518}, at::kLong).unsqueeze(0));
  EXPECT_EQ(y.sizes(), (std::vector<int64_t>{1, 4, 128}));
  EXPECT_TRUE(y.isfinite().all().item<bool>());
}

}  // namespace lora
