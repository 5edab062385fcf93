// What is done with files of which not everything is understood, and what errors say about the file.
#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include <fstream>

#include "loaders/tiny_pipeline.h"
#include "lora/lora_file.h"

namespace lora {

namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

const std::string kBlock = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.";
const std::string kFlat = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_";

StateDict sound(const std::string& layer = kBlock + "to_q") {
  return {{layer + ".lora_A.weight", at::ones({1, 20})}, {layer + ".lora_B.weight", at::ones({20, 1})}};
}

StateDict with(StateDict file, const std::string& key, const Tensor& tensor = at::ones({20})) {
  file.set(key, tensor);
  return file;
}

}  // namespace

struct KeyRow {
  const char* name;
  std::string key;
};

class PartOfAnEffect : public testing::TestWithParam<KeyRow> {};

TEST_P(PartOfAnEffect, IsAnErrorOrLeftOutWithANote) {
  const auto& key = GetParam().key;
  TinyPipeline pipe;
  auto file = with(sound(), key);
  auto message = error_of(ErrorKind::bad_key, [&] { pipe.load_lora_weights(file); });
  EXPECT_THAT(message, AllOf(HasSubstr(key), HasSubstr("state dict: "), HasSubstr("--allow-partial")));
  error_of(ErrorKind::bad_key, [&] { read_lora(file); });
  EXPECT_THAT(pipe.get_list_adapters(), IsEmpty());

  auto report = pipe.load_lora_weights(file, {.adapter_name = "a", .partial = PartialLora::allow});
  EXPECT_EQ(report.matched_layers(), 1u);
  EXPECT_THAT(report.text(), AllOf(HasSubstr("the effect is not whole"), HasSubstr(key)));
  auto partial = pipe.run("unet");
  pipe.load_lora_weights(sound());
  EXPECT_TRUE(at::equal(pipe.run("unet"), partial));
  error_of(ErrorKind::bad_key, [&] { pipe.load_lora_weights(file, {.strict = true, .partial = PartialLora::allow}); });
}

INSTANTIATE_TEST_SUITE_P(All, PartOfAnEffect,
                         testing::Values(KeyRow{"unknown_tensor_of_a_layer", kBlock + "to_q.gate"},
                                         KeyRow{"unknown_tensor_of_a_layer_below", kBlock + "to_q.gate.weight.0"},
                                         KeyRow{"whole_weight_of_a_layer", kBlock + "to_q.base_layer.weight"},
                                         KeyRow{"whole_weight", "unet.conv_in.weight"},
                                         KeyRow{"bias_of_the_down_factor", kBlock + "to_q.lora_A.bias"},
                                         KeyRow{"bias_of_a_flat_down_factor", kFlat + "to_v.lora_down.bias"},
                                         KeyRow{"trained_tokens",
                                                "text_encoder.base_model.model.text_model.embeddings.token_embedding."
                                                "token_adapter.trainable_tokens_delta"},
                                         KeyRow{"indices_of_trained_tokens",
                                                "base_model.model.embeddings.token_embedding.token_adapter."
                                                "trainable_tokens_indices"},
                                         KeyRow{"lora_of_another_form", kBlock + "to_v.lora_E"},
                                         KeyRow{"vera", kBlock + "to_v.vera_lambda_b"},
                                         KeyRow{"flat_name_that_nobody_knows",
                                                "lora_unet_no_such_module.lora_down.weight"},
                                         KeyRow{"flat_tensor_that_nobody_knows", kFlat + "to_v.mystery"}),
                         [](const auto& test) { return test.param.name; });

class NoPartOfAnEffect : public testing::TestWithParam<KeyRow> {};

TEST_P(NoPartOfAnEffect, IsListedAndTheRestIsLoaded) {
  TinyPipeline pipe;
  auto report = pipe.load_lora_weights(with(sound(), GetParam().key));
  EXPECT_EQ(report.matched_layers(), 1u);
  ASSERT_EQ(report.unmatched.size(), 1u) << report.text();
  EXPECT_THAT(report.text(), Not(HasSubstr("not whole")));
}

INSTANTIATE_TEST_SUITE_P(All, NoPartOfAnEffect,
                         testing::Values(KeyRow{"a_counter", "step"}, KeyRow{"a_counter_in_a_group", "state.epoch"},
                                         KeyRow{"a_counter_of_parameters", "trainable_params"},
                                         KeyRow{"of_another_component", "image_proj.proj.weight"},
                                         KeyRow{"a_norms_scale", "double_blocks.0.img_attn.norm.query_norm.scale"}),
                         [](const auto& test) { return test.param.name; });

TEST(Partial, AStrengthAloneIsNoPart) {
  TinyPipeline pipe;
  for (auto end : {".alpha", ".scale"}) {
    auto report = pipe.load_lora_weights(with(sound(), kFlat + "to_v" + end, at::ones({})));
    EXPECT_EQ(report.matched_layers(), 1u);
    EXPECT_EQ(report.unmatched.size(), 1u);
  }
}

TEST(Partial, ABiasOfZerosIsNoPart) {
  TinyPipeline pipe;
  pipe.load_lora_weights(sound());
  auto wanted = pipe.run("unet");
  for (auto end : {"lora_A.bias", "lora_A.default.bias", "lora_down.bias", "lora.down.bias"}) {
    SCOPED_TRACE(end);
    pipe.unload_lora_weights();
    auto key = kBlock + "to_q." + end;
    auto report = pipe.load_lora_weights(with(sound(), key, at::zeros({1})));
    EXPECT_THAT(report.text(), AllOf(HasSubstr(key), HasSubstr("a bias of zeros"), Not(HasSubstr("not whole"))));
    EXPECT_TRUE(at::equal(pipe.run("unet"), wanted));
    EXPECT_THAT(error_of(ErrorKind::bad_key, [&] { pipe.load_lora_weights(with(sound(), key, at::ones({1}))); }),
                HasSubstr(key));
  }
  // That of the up factor is understood.
  pipe.unload_lora_weights();
  EXPECT_THAT(pipe.load_lora_weights(with(sound(), kBlock + "to_q.lora_B.bias", at::zeros({20}))).unmatched, IsEmpty());
  EXPECT_TRUE(at::equal(pipe.run("unet"), wanted));
}

// Whatever program's name it has, the up factor's bias acts at the strength of the factors.
TEST(Partial, TheUpFactorsBiasActsUnderEachName) {
  TinyPipeline pipe;
  auto bias = at::arange(20).to(at::kFloat);
  auto down = at::ones({2, 20}), up = at::ones({20, 2}) / 50;
  auto run = [&](const std::string& layer, const std::string& end, bool flat) {
    StateDict file{{layer + (flat ? ".lora_down.weight" : ".lora_A.weight"), down},
                   {layer + (flat ? ".lora_up.weight" : ".lora_B.weight"), up},
                   {layer + ".alpha", at::scalar_tensor(1.0)}};
    if (!end.empty()) file.set(layer + end, bias);
    auto report = pipe.load_lora_weights(file);
    EXPECT_THAT(report.unmatched, IsEmpty()) << layer << end;
    auto output = pipe.run("unet");
    pipe.unload_lora_weights();
    return output;
  };
  auto wanted = run(kBlock + "to_q", ".lora_B.bias", false);
  EXPECT_FALSE(at::equal(wanted, run(kBlock + "to_q", "", false)));
  for (auto end : {".lora_up.bias", ".lora.up.bias", ".lora_linear_layer.up.bias"})
    EXPECT_TRUE(at::equal(run(kFlat + "to_q", end, true), wanted)) << end;
}

TEST(Partial, OneComponentsPartIsCheckedToo) {
  TinyPipeline pipe;
  auto file = with(sound(), kBlock + "to_q.gate");
  EXPECT_THAT(error_of(ErrorKind::bad_key, [&] { pipe.load_lora_into_unet(file, {}, pipe.unet); }),
              HasSubstr("to_q.gate"));
  EXPECT_EQ(pipe.load_lora_into_unet(file, {}, pipe.unet, {.partial = PartialLora::allow}).matched_layers(), 1u);
}

TEST(Partial, AWordThatIsNotFiniteIsPassedOver) {
  TinyPipeline pipe;
  auto width = pipe.text_encoder.state_dict().at("text_model.embeddings.token_embedding.weight").size(1);
  auto file = with(sound(), "bundle_emb.dot.string_to_param.*", at::full({1, width}, std::nan("")));
  auto report = pipe.load_lora_weights(file);
  EXPECT_THAT(report.embeddings, IsEmpty());
  EXPECT_THAT(report.text(), HasSubstr("NaN or infinity"));
}

// A whole bias acts by its difference from the model's own.
TEST(WholeBias, ReplacesTheBiasAtStrengthOne) {
  TinyPipeline pipe;
  auto path = std::string("mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0");
  auto bias = [&] { return pipe.unet.state_dict().at(path + ".bias").clone(); };
  auto before = bias(), wanted = at::arange(20).to(at::kFloat);
  for (const auto& file : {with(sound("unet." + path), "unet." + path + ".base_layer.bias", wanted),
                           with(sound(), "unet." + path + ".bias", wanted)}) {
    pipe.load_lora_weights(file, {.adapter_name = "a"});
    pipe.set_adapters("a", 0.5);
    pipe.fuse_lora();
    expect_close(bias(), (before + wanted) / 2, 1e-6);
    pipe.unfuse_lora();
    pipe.set_adapters("a", 1);
    pipe.fuse_lora();
    expect_close(bias(), wanted, 1e-6);
    pipe.unfuse_lora();
    EXPECT_TRUE(same_bits(bias(), before));
    pipe.unload_lora_weights();
  }
  error_of(ErrorKind::bad_shape, [&] { pipe.load_lora_weights(with(sound(), kBlock + "to_q.base_layer.bias")); });
  EXPECT_THAT(error_of(ErrorKind::bad_key,
                       [&] {
                         pipe.load_lora_weights(StateDict{{"unet." + path + ".bias", wanted}});
                       }),
              HasSubstr("no LoRA in this file"));
}

// ---- Errors name the file -------------------------------------------------------------------------------------------

struct FileRow {
  const char* name;
  ErrorKind kind;
  StateDict file;
  std::vector<std::string> says;
  std::map<std::string, std::string> metadata = {};
};

class FileError : public testing::TestWithParam<FileRow> {};

TEST_P(FileError, NamesTheFileAndNoFrames) {
  auto row = GetParam();
  row.file.metadata = row.metadata;
  TemporaryFolder folder;
  save_safetensors(row.file, folder / "this_one.safetensors");
  TinyPipeline pipe;
  auto message = error_of(row.kind, [&] { pipe.load_lora_weights(folder / "this_one.safetensors"); });
  EXPECT_THAT(message,
              AllOf(HasSubstr("this_one.safetensors"), Not(HasSubstr("Exception raised")), Not(HasSubstr("#0"))));
  for (const auto& part : row.says) EXPECT_THAT(message, HasSubstr(part));
  EXPECT_EQ(message.find("this_one"), message.rfind("this_one")) << message;
}

INSTANTIATE_TEST_SUITE_P(
    All, FileError,
    testing::Values(
        FileRow{"half_a_pair",
                ErrorKind::bad_key,
                {{kBlock + "to_q.lora_A.weight", at::ones({1, 20})}},
                {"to_q", "no lora_B"}},
        FileRow{
            "misfit",
            ErrorKind::bad_shape,
            {{kBlock + "to_q.lora_A.weight", at::ones({1, 21})}, {kBlock + "to_q.lora_B.weight", at::ones({20, 1})}},
            {"21 → 20", "20 → 20"}},
        FileRow{
            "two_ranks",
            ErrorKind::bad_shape,
            {{kBlock + "to_q.lora_A.weight", at::ones({1, 20})}, {kBlock + "to_q.lora_B.weight", at::ones({20, 2})}},
            {"rank 1", "2 (shape"}},
        FileRow{"sizes_of_a_product",
                ErrorKind::bad_shape,
                {{kBlock + "to_q.lokr_w1", at::ones({2})}, {kBlock + "to_q.lokr_w2", at::ones({10, 10})}},
                {"to_q"}},
        FileRow{
            "two_alphas", ErrorKind::bad_shape, with(sound(), kBlock + "to_q.alpha", at::ones({2})), {"to_q.alpha"}},
        FileRow{
            "rank_zero",
            ErrorKind::bad_file,
            {{kBlock + "to_q.lora_A.weight", at::ones({0, 20})}, {kBlock + "to_q.lora_B.weight", at::ones({20, 0})}},
            {"rank 0"}},
        FileRow{"another_rank_in_the_metadata",
                ErrorKind::bad_file,
                sound(),
                {"r = 8", "rank 1", kBlock + "to_q.lora_A.weight", "lora_adapter_metadata"},
                {{"lora_adapter_metadata", R"({"unet.r": 8, "unet.lora_alpha": 8})"}}},
        FileRow{"another_rank_in_a_models_metadata",
                ErrorKind::bad_file,
                sound(),
                {"r = 8", "rank 1"},
                {{"lora_adapter_metadata", R"({"r": 8, "lora_alpha": 8})"}}},
        FileRow{"rank_zero_in_the_metadata",
                ErrorKind::bad_file,
                sound(),
                {"r = 0", "rank 1"},
                {{"lora_adapter_metadata", R"({"unet.r": 0, "unet.lora_alpha": 8})"}}},
        FileRow{
            "a_pattern_of_another_rank",
            ErrorKind::bad_file,
            sound(),
            {"r = 3", "rank 1"},
            {{"lora_adapter_metadata", R"({"unet.r": 1, "unet.lora_alpha": 8, "unet.rank_pattern": {"to_q": 3}})"}}},
        FileRow{"rank_zero_of_a_whole_product",
                ErrorKind::bad_file,
                {{kBlock + "to_q.lokr_w1", at::ones({2, 2})}, {kBlock + "to_q.lokr_w2", at::ones({10, 10})}},
                {"r = 0", "at least 1"},
                {{"lora_adapter_metadata", R"({"unet.peft_type": "LOKR", "unet.r": 0, "unet.alpha": 8})"}}},
        FileRow{"a_broken_pattern",
                ErrorKind::bad_file,
                sound(),
                {"to_(", "not a regular expression"},
                {{"lora_adapter_metadata", R"({"unet.alpha_pattern": {"to_(": 3}})"}}},
        FileRow{"another_type",
                ErrorKind::unsupported,
                sound(),
                {"BOFT"},
                {{"lora_adapter_metadata", R"({"unet.peft_type": "BOFT"})"}}},
        FileRow{"no_json", ErrorKind::bad_file, sound(), {"not a JSON object"}, {{"lora_adapter_metadata", "{"}}}),
    [](const auto& test) { return test.param.name; });

TEST(ModelFile, ItsMetadataSaysHowStronglyItActs) {
  TinyPipeline pipe;
  std::string layer = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q";
  StateDict file{{layer + ".lora_A.weight", at::ones({4, 20})}, {layer + ".lora_B.weight", at::ones({20, 4})}};
  auto scale = [&](const char* metadata) {
    file.metadata["lora_adapter_metadata"] = metadata;
    auto report = pipe.match_lora(file);
    return report.components.at(0).layers.at(0).scale;
  };
  EXPECT_EQ(scale(R"({"r": 4, "lora_alpha": 2})"), 0.5);
  EXPECT_EQ(scale(R"({"r": 4, "lora_alpha": 2, "use_rslora": true})"), 1);
  EXPECT_EQ(scale(R"({"r": 8, "rank_pattern": {"to_q": 4}, "lora_alpha": 2, "alpha_pattern": {"to_q": 6}})"), 1.5);
  EXPECT_EQ(scale(R"({"unet.r": 4, "unet.lora_alpha": 1, "lora_alpha": 2})"), 0.25);
  EXPECT_EQ(scale(R"({"text_encoder.r": 8, "text_encoder.lora_alpha": 1})"), 1);
}

}  // namespace lora
