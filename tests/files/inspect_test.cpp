#include <gmock/gmock.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "files/lora_files.h"

namespace lora {

namespace {

using testing::AllOf;
using testing::Contains;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

const std::string kLayer = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_k";
const std::string kPath = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_k";

Inspection inspected(const StateDict& file) {
  TemporaryFolder folder;
  save_safetensors(file, folder / "a.safetensors");
  return inspect_lora(folder / "a.safetensors");
}

// The one finding that there is.
Inspection::Finding only_finding(const StateDict& file) {
  auto inspection = inspected(file);
  EXPECT_THAT(inspection.findings, SizeIs(1)) << inspection.text();
  return inspection.findings.empty() ? Inspection::Finding() : inspection.findings.front();
}

StateDict without(const StateDict& file, const std::string& start) {
  StateDict rest;
  for (const auto& [key, tensor] : file)
    if (!key.starts_with(start)) rest.set(key, tensor);
  return rest;
}

}  // namespace

struct Count {
  BaseModel base_model;
  const char* component;
  size_t model, trainable;
};

class Published : public testing::TestWithParam<Count> {};

TEST_P(Published, HasTheLayersThatTheFieldCounts) {
  auto [base_model, component, model, trainable] = GetParam();
  EXPECT_EQ(published_components(base_model, component).at(model).trainable(), trainable);
}

INSTANTIATE_TEST_SUITE_P(
    Models, Published,
    testing::Values(Count{BaseModel::sd1, "unet", 0, 282}, Count{BaseModel::sd1, "text_encoder", 0, 72},
                    Count{BaseModel::sd2, "unet", 0, 282}, Count{BaseModel::sd2, "text_encoder", 0, 138},
                    Count{BaseModel::sdxl, "unet", 0, 794}, Count{BaseModel::sdxl, "text_encoder_2", 0, 193},
                    Count{BaseModel::sd3, "transformer", 0, 341}, Count{BaseModel::sd3, "transformer", 1, 393},
                    Count{BaseModel::sd3, "transformer", 2, 537}, Count{BaseModel::sd3, "text_encoder_3", 0, 168},
                    Count{BaseModel::flux, "transformer", 0, 504}, Count{BaseModel::amused, "transformer", 1, 373}));

TEST(Published, IsEmptyForWhatIsNotKnown) {
  EXPECT_THAT(published_components(BaseModel::unknown, "unet"), IsEmpty());
  EXPECT_THAT(published_components(BaseModel::sdxl, "controlnet"), IsEmpty());
}

TEST(Inspect, ASoundFileIsFine) {
  auto file = kohya_sd15();
  file.metadata = {{"ss_network_module", "networks.lora"}, {"ss_tag_frequency", std::string(5000, 'x')}};
  auto inspection = inspected(file);
  EXPECT_EQ(inspection.verdict(), "LoRA for SD 1.x, kohya: 192 of 282 layers of SD 1.5's UNet (68 %): fine");
  EXPECT_THAT(inspection.findings, IsEmpty());
  EXPECT_EQ(inspection.known_by, "its cross-attention takes text of width 768");
  EXPECT_EQ(inspection.trainer, "kohya's sd-scripts (networks.lora)");
  EXPECT_THAT(inspection.components, SizeIs(1));
  EXPECT_EQ(inspection.components[0].linear_layers, 160u);
  EXPECT_EQ(inspection.components[0].conv_layers, 32u);
  EXPECT_THAT(inspection.text(), AllOf(HasSubstr("rank 1, alpha 1: 192 layers"), HasSubstr("xx …\n")));
  EXPECT_LT(inspection.text().size(), 2500u);
  auto json = nlohmann::json::parse(inspection.json());
  EXPECT_EQ(json["verdict"], inspection.verdict());
  EXPECT_EQ(json["layers"].size(), 192u);
  EXPECT_EQ(json["metadata"]["ss_tag_frequency"].get<std::string>().size(), 5000u);
}

TEST(Inspect, TellsMetadataThatContradictsTheLayers) {
  auto file = kohya_sd15();
  file.metadata = {{"ss_base_model_version", "sdxl_base_v1-0"}};
  auto finding = only_finding(file);
  EXPECT_TRUE(finding.problem);
  EXPECT_EQ(finding.what,
            "the layers contradict the metadata, which says SDXL (ss_base_model_version: sdxl_base_v1-0)");
  EXPECT_THAT(inspected(file).verdict(), AllOf(HasSubstr("LoRA for SD 1.x"), HasSubstr("1 problem")));
}

// The network module of FLUX.2 is that of klein too, and Kolors has the UNet of SDXL.
TEST(Inspect, MetadataOfAFamilyOrOfAModelThatLooksAlikeIsNoContradiction) {
  auto with_layers = [](const std::vector<std::tuple<std::string, int64_t, int64_t>>& layers) {
    StateDict file;
    for (const auto& [key, rows, columns] : layers) {
      file.set(key + ".lora_A.weight", at::ones({1, columns}));
      file.set(key + ".lora_B.weight", at::ones({rows, 1}));
    }
    return file;
  };
  auto klein = with_layers({{"diffusion_model.double_blocks.0.img_attn.qkv", 9216, 3072},
                            {"diffusion_model.single_blocks.0.linear1", 27648, 3072}});
  klein.metadata = {{"ss_network_module", "networks.lora_flux_2"}};
  EXPECT_EQ(inspected(klein).architecture, "FLUX.2 klein");
  EXPECT_EQ(inspected(klein).problems(), 0u) << inspected(klein).text();
  klein.metadata = {{"ss_network_module", "networks.lora_flux"}};
  EXPECT_THAT(inspected(klein).text(), HasSubstr("the layers contradict the metadata, which says Flux "));

  auto kolors = with_layers({{"unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k", 640, 2048}});
  kolors.metadata = {{"ss_base_model_version", "kolors"}};
  EXPECT_EQ(inspected(kolors).architecture, "Kolors");
  EXPECT_EQ(inspected(kolors).problems(), 0u) << inspected(kolors).text();
  auto marked = with_layers({{"unet.encoder_hid_proj", 2048, 4096}});
  marked.metadata = {{"ss_base_model_version", "sdxl_base_v1-0"}};
  EXPECT_THAT(inspected(marked).text(), HasSubstr("the layers contradict the metadata, which says SDXL "));
}

// Without a published model to compare with, nothing is called fine.
TEST(Inspect, OtherModelsAreNamedAndNotCalledFine) {
  StateDict wan, unheard;
  for (auto [file, key] :
       {std::pair(&wan, "diffusion_model.blocks.0.self_attn.q"), {&unheard, "diffusion_model.blocks.0.mixer.gate"}}) {
    file->set(std::string(key) + ".lora_A.weight", at::ones({1, 1536}));
    file->set(std::string(key) + ".lora_B.weight", at::ones({1536, 1}));
  }
  EXPECT_EQ(inspected(wan).verdict(),
            "LoRA for Wan, comfy: 1 layer of transformer: no problem in itself, but no model's layers are known here "
            "to compare it with");
  EXPECT_EQ(inspected(wan).known_by, "the names of its layers");
  EXPECT_THAT(inspected(unheard).verdict(), HasSubstr("LoRA for an unknown base model"));
}

TEST(Inspect, NormsAreThoseOfTheProduct) {
  auto file = kohya_sd15();
  file.set(kLayer + ".alpha", at::scalar_tensor(0.5));
  auto wanted = 0.5 * at::mm(file.at(kLayer + ".lora_up.weight"), file.at(kLayer + ".lora_down.weight")).norm();
  auto layers = inspected(file).layers;
  auto layer = std::find_if(layers.begin(), layers.end(), [](auto& l) { return l.component + "." + l.path == kPath; });
  ASSERT_NE(layer, layers.end());
  EXPECT_NEAR(layer->norm, wanted.item<double>(), 1e-5 * wanted.item<double>());
}

TEST(Inspect, FindsNaNAndInfinity) {
  for (double bad : {std::nan(""), double(INFINITY)}) {
    auto file = kohya_sd15();
    auto up = file.at(kLayer + ".lora_up.weight").clone();
    up[3][0] = bad;
    file.set(kLayer + ".lora_up.weight", up);
    auto finding = only_finding(file);
    EXPECT_TRUE(finding.problem);
    EXPECT_EQ(finding.what, "1 layer has NaN or infinite numbers");
    EXPECT_THAT(finding.layers, Contains(kPath));
  }
}

TEST(Inspect, ALayerThatChangesNothingIsARemarkAndAllOfThemAProblem) {
  auto file = kohya_sd15();
  scale(file, kLayer + ".lora_up.weight", 0);
  auto finding = only_finding(file);
  EXPECT_FALSE(finding.problem);
  EXPECT_THAT(finding.layers, SizeIs(1));
  EXPECT_THAT(inspected(file).verdict(), HasSubstr(": fine"));
  for (const auto& [key, tensor] : StateDict(file))
    if (key.ends_with("lora_up.weight")) scale(file, key, 0);
  EXPECT_TRUE(only_finding(file).problem);
}

TEST(Inspect, FindsWhatIsOutOfAllProportion) {
  auto file = kohya_sd15();
  scale(file, kLayer + ".lora_up.weight", 100);
  auto finding = only_finding(file);
  EXPECT_THAT(finding.what, HasSubstr("30 times"));
  EXPECT_THAT(finding.layers, testing::ElementsAre(kPath));
  scale(file, kLayer + ".lora_up.weight", 0.1);
  EXPECT_THAT(inspected(file).findings, IsEmpty()) << "ten times is nothing unusual";
}

TEST(Inspect, FindsALayerThatOnlyOneBlockLacks) {
  auto finding = only_finding(without(kohya_sd15(), kLayer + "."));
  EXPECT_THAT(finding.what, HasSubstr("missing"));
  EXPECT_THAT(finding.layers, testing::ElementsAre(kPath));
  // Blocks without any layer are a choice, and so are layers that no block has.
  auto chosen = kohya_sd15([](const std::string& path) {
    return path.find("down_blocks.1") == path.npos && path.find("attn2.to_v") == path.npos;
  });
  EXPECT_THAT(inspected(chosen).findings, IsEmpty());
}

TEST(Inspect, FindsAlphaZero) {
  auto file = kohya_sd15();
  file.set(kLayer + ".alpha", at::scalar_tensor(0.0));
  auto finding = only_finding(file);
  EXPECT_TRUE(finding.problem);
  EXPECT_THAT(finding.what, HasSubstr("alpha 0"));
}

TEST(Inspect, ANegativeAlphaIsARemark) {
  auto file = kohya_sd15();
  file.set(kLayer + ".alpha", at::scalar_tensor(-1.0));
  auto finding = only_finding(file);
  EXPECT_FALSE(finding.problem);
  EXPECT_THAT(finding.what, HasSubstr("negative alpha"));
}

TEST(Inspect, AnAlphaThatIsNotFiniteIsAProblemIfItCounts) {
  for (double bad : {std::nan(""), double(INFINITY), 1e300}) {
    auto file = kohya_sd15();
    file.set(kLayer + ".alpha", at::scalar_tensor(bad, at::kDouble));
    EXPECT_EQ(only_finding(file).what, "1 layer has NaN or infinite numbers");
    // The alpha of a Kronecker product of two whole factors does not count.
    file = without(file, kLayer);
    file.set(kLayer + ".lokr_w1", at::randn({2, 2}) * 0.1);
    file.set(kLayer + ".lokr_w2", at::randn({320, 320}) * 0.1);
    file.set(kLayer + ".alpha", at::scalar_tensor(bad, at::kDouble));
    EXPECT_THAT(inspected(file).findings, IsEmpty()) << inspected(file).text();
  }
}

// For every kind, whatever the tensor.
TEST(Inspect, ALayerOfRankZeroIsPassedOverWithANote) {
  auto sound = kohya_sd15();
  for (const auto& tensors : std::vector<StateDict>{
           {{".lora_down.weight", at::ones({0, 640})}, {".lora_up.weight", at::ones({640, 0})}},
           {{".lora_down.weight", at::ones({0, 640})},
            {".lora_up.weight", at::ones({640, 0})},
            {".alpha", at::ones({})}},
           {{".hada_w1_a", at::ones({640, 0})},
            {".hada_w1_b", at::ones({0, 640})},
            {".hada_w2_a", at::ones({640, 0})},
            {".hada_w2_b", at::ones({0, 640})}},
           {{".lokr_w1", at::ones({2, 2})}, {".lokr_w2_a", at::ones({320, 0})}, {".lokr_w2_b", at::ones({0, 320})}},
           {{".oft_blocks", at::ones({0, 0, 0})}},
           {{".diff", at::ones({0})}}}) {
    auto file = without(sound, kLayer);
    for (const auto& [end, tensor] : tensors) file.set(kLayer + end, tensor);
    auto inspection = inspected(file);
    EXPECT_EQ(inspection.layers.size(), 191u);
    EXPECT_THAT(inspection.notes, Contains(AllOf(HasSubstr("rank 0"), HasSubstr(kPath.substr(5)))));
    EXPECT_THAT(inspection.text(), HasSubstr("rank 0"));
  }
  StateDict nothing{{kLayer + ".lora_down.weight", at::ones({0, 640})},
                    {kLayer + ".lora_up.weight", at::ones({640, 0})}};
  EXPECT_THAT(error_of(ErrorKind::bad_file, [&] { inspected(nothing); }), HasSubstr("a.safetensors"));
}

TEST(Inspect, TensorsThatDoNotGoTogetherAreAProblemOfTheirLayer) {
  auto file = without(kohya_sd15(), kLayer);
  file.set(kLayer + ".lokr_w1", at::ones({2}));
  file.set(kLayer + ".lokr_w2", at::ones({320}));
  auto finding = only_finding(file);
  EXPECT_TRUE(finding.problem);
  EXPECT_THAT(finding.layers, Contains(kPath));
  EXPECT_THAT(finding.what, testing::Not(HasSubstr("Exception raised")));
}

TEST(Inspect, FindsOtherSizesAndLayersThatTheModelHasNot) {
  auto file = kohya_sd15();
  file.set(kLayer + ".lora_down.weight", at::randn({1, 641}));
  EXPECT_THAT(only_finding(file).what, HasSubstr("other sizes than in SD 1.5's UNet"));
  file = kohya_sd15();
  for (auto part : {".lora_down.weight", ".lora_up.weight", ".alpha"})
    file.set(std::string("lora_unet_down_blocks_7_attentions_0_proj_in") + part, file.at(kLayer + part));
  EXPECT_THAT(only_finding(file).what, HasSubstr("1 layer does not exist in SD 1.5's UNet"));
}

TEST(Inspect, FindsHalvesOfPairsAndKeysThatAreNone) {
  EXPECT_THAT(only_finding(without(kohya_sd15(), kLayer + ".lora_up")).what, HasSubstr("half of a pair"));
  auto file = kohya_sd15();
  file.set("what.is_this", at::zeros({1}));
  EXPECT_THAT(only_finding(file).layers, Contains(HasSubstr("what.is_this")));
}

TEST(Inspect, SaysWhetherTheTensorsAreThoseOfTheHash) {
  TemporaryFolder folder;
  auto file = kohya_sd15();
  save_safetensors(file, folder / "a.safetensors");
  file.metadata["sshs_model_hash"] = hash_file(folder / "a.safetensors").data;
  auto good = inspected(file);
  EXPECT_THAT(good.findings, IsEmpty());
  EXPECT_THAT(good.text(), HasSubstr("sshs_model_hash matches"));
  scale(file, kLayer + ".lora_up.weight", 1.5);
  EXPECT_THAT(only_finding(file).what, HasSubstr("the hash"));
}

TEST(Inspect, TellsTrainersAndBasesApart) {
  auto file = kohya_sd15();
  file.metadata = {{"ot_branch", "master"}};
  EXPECT_EQ(inspected(file).trainer, "OneTrainer");
  file.metadata = {{"software", R"({"name": "ai-toolkit"})"}};
  EXPECT_EQ(inspected(file).trainer, "ai-toolkit");
  auto without_text = kohya_sd15([](const std::string& path) { return path.find("attn2") == path.npos; });
  EXPECT_EQ(inspected(without_text).architecture, "");
  without_text.metadata = {{"ss_base_model_version", "sd_v1"}};
  auto told = inspected(without_text);
  EXPECT_EQ(told.architecture, "SD 1.x");
  EXPECT_EQ(told.known_by, "its metadata says so");
}

TEST(Inspect, ReadsEveryFileOfTheTests) {
  for (const auto& path : readable_files()) {
    auto inspection = inspect_lora(path);
    EXPECT_FALSE(inspection.layers.empty()) << path;
    for (const auto& layer : inspection.layers) EXPECT_EQ(layer.error, "") << path << ": " << layer.path;
    EXPECT_NO_THROW(nlohmann::json::parse(inspection.json())) << path;
  }
}

TEST(Inspect, FlagsLayersThatDependOnTheBaseOrAreIncomplete) {
  auto file = without(kohya_sd15(), kLayer + ".lora_up");
  auto other = std::string("lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k");
  file.set(other + ".dora_scale", at::rand({1280, 1}));
  for (const auto& layer : inspected(file).layers) {
    EXPECT_EQ(layer.incomplete, layer.component + "." + layer.path == kPath) << layer.path;
    EXPECT_EQ(layer.depends_on_base, layer.path == "mid_block.attentions.0.transformer_blocks.0.attn2.to_k")
        << layer.path;
  }
}

TEST(Inspect, TakesTensorsInMemoryAndAFileOfAFolder) {
  auto file = kohya_sd15();
  auto memory = inspect_lora(file);
  EXPECT_EQ(memory.file, "state dict");
  EXPECT_EQ(memory.hashes.file, "");
  EXPECT_EQ(memory.verdict(), inspected(file).verdict());
  TemporaryFolder folder;
  save_safetensors(file, folder / "one.safetensors");
  save_safetensors(without(file, kLayer + ".lora_up"), folder / "two.safetensors");
  EXPECT_EQ(inspect_lora(folder.path(), {.read = {.weight_name = "one.safetensors"}}).problems(), 0u);
  EXPECT_EQ(inspect_lora(folder.path(), {.read = {.weight_name = "two.safetensors"}}).problems(), 1u);
}

TEST(Inspect, TellsItsProgressAndPassesOnWhatThatThrows) {
  int calls = 0, last = 0;
  inspect_lora(kohya_sd15(), {.progress = [&](int done, int total) {
                 EXPECT_EQ(total, 192);
                 ++calls;
                 last = std::max(last, done);
               }});
  EXPECT_EQ(calls, 192);
  EXPECT_EQ(last, 192);
  EXPECT_THROW(inspect_lora(kohya_sd15(), {.progress = [](int, int) { throw std::out_of_range("mine"); }}),
               std::out_of_range);
}

TEST(Inspect, RefusesWhatIsNoLoRA) {
  TemporaryFolder folder;
  save_safetensors({{"clip_l", at::zeros({2, 768})}, {"clip_g", at::zeros({2, 1280})}}, folder / "a.safetensors");
  error_of(ErrorKind::bad_key, [&] { inspect_lora(folder / "a.safetensors"); });
}

}  // namespace lora
