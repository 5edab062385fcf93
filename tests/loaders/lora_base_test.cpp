// What each call does to what is loaded, active and fused; and what bad input is answered with.
#include <ATen/ATen.h>

#include <fstream>

#include "loaders/tiny_pipeline.h"

namespace lora {

namespace {

using Names = std::vector<std::string>;

const auto kKohya = TinyPipeline::file("kohya.safetensors");
const auto kPeft = TinyPipeline::file("peft.safetensors");

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST(Load, MakesTheNewAdapterTheOnlyActiveOne) {
  TinyPipeline pipe;
  pipe.load_lora_weights(kKohya, {.adapter_name = "a"});
  auto alone = pipe.run("unet");
  pipe.load_lora_weights(kPeft, {.adapter_name = "b"});
  EXPECT_EQ(pipe.get_active_adapters(), Names{"b"});
  EXPECT_EQ(pipe.get_list_adapters(),
            (std::map<std::string, Names>{{"unet", {"a", "b"}}, {"text_encoder", {"a", "b"}}}));
  EXPECT_FALSE(at::equal(pipe.run("unet"), alone));
  pipe.set_adapters({"a"});
  EXPECT_TRUE(at::equal(pipe.run("unet"), alone));
}

TEST(Load, DefaultNamesAreNeverUsedTwice) {
  TinyPipeline pipe;
  EXPECT_EQ(pipe.load_lora_weights(TinyPipeline::file("kohya_unet_only.safetensors")).adapter_name, "default_0");
  EXPECT_EQ(pipe.load_lora_weights(kKohya).adapter_name, "default_1");
  pipe.delete_adapters({"default_0"});
  EXPECT_EQ(pipe.load_lora_weights(kKohya).adapter_name, "default_2");
  pipe.load_lora_weights(kKohya, {.adapter_name = "default_3"});
  EXPECT_EQ(pipe.load_lora_weights(kKohya).adapter_name, "default_4");
}

TEST(Load, ANameInUseIsAConflictAndChangesNothing) {
  TinyPipeline pipe;
  pipe.load_lora_weights(kKohya, {.adapter_name = "a"});
  auto before = pipe.run("unet");
  EXPECT_TRUE(contains(error_of(ErrorKind::conflict, [&] { pipe.load_lora_weights(kPeft, {.adapter_name = "a"}); }),
                       "\"a\" is loaded already"));
  EXPECT_TRUE(at::equal(pipe.run("unet"), before));
}

TEST(Load, FromMemoryLeavesTheCallersTensorsAlone) {
  TinyPipeline pipe;
  auto tensors = load_state_dict(kKohya);
  std::vector<Tensor> copies;
  for (const auto& [name, tensor] : tensors) copies.push_back(tensor.clone());
  pipe.load_lora_weights(tensors, {.adapter_name = "a"});
  pipe.fuse_lora();
  pipe.unfuse_lora();
  size_t i = 0;
  for (const auto& [name, tensor] : tensors) EXPECT_TRUE(same_bits(tensor, copies[i++])) << name;
}

TEST(Load, AFailureInOneComponentLeavesAllOfThem) {
  TinyPipeline pipe;
  auto tensors = load_state_dict(kKohya);
  std::string victim = "lora_te_text_model_encoder_layers_1_mlp_fc1.lora_down.weight";
  tensors.set(victim, at::zeros({4, 99}));
  error_of(ErrorKind::bad_shape, [&] { pipe.load_lora_weights(tensors); });
  EXPECT_TRUE(pipe.get_list_adapters().empty());
  EXPECT_TRUE(pipe.get_active_adapters().empty());
}

TEST(Load, FoldersAreSearched) {
  TinyPipeline pipe;
  TemporaryFolder folder;
  EXPECT_TRUE(contains(error_of(ErrorKind::not_found, [&] { pipe.load_lora_weights(folder.path()); }), "no LoRA file"));
  std::filesystem::copy(kKohya, folder / "b.safetensors");
  std::filesystem::copy(kPeft, folder / "optimizer.safetensors");
  EXPECT_EQ(pipe.load_lora_weights(folder.path()).source, (folder / "b.safetensors").string());
  std::filesystem::copy(kPeft, folder / "a.safetensors");
  auto report = pipe.load_lora_weights(folder.path());
  EXPECT_EQ(report.source, (folder / "a.safetensors").string());
  EXPECT_EQ(report.notes.size(), 1u) << "it says that there was a choice";
  std::filesystem::copy(kPeft, folder / "pytorch_lora_weights.safetensors");
  EXPECT_EQ(pipe.load_lora_weights(folder.path()).source, (folder / "pytorch_lora_weights.safetensors").string());
  std::filesystem::create_directory(folder / "sub");
  std::filesystem::copy(kKohya, folder / "sub/c.safetensors");
  EXPECT_EQ(pipe.load_lora_weights(folder.path(), {.subfolder = "sub"}).dialect, "kohya");
  EXPECT_EQ(pipe.load_lora_weights(folder.path(), {.weight_name = "b.safetensors"}).dialect, "kohya");
  EXPECT_TRUE(contains(
      error_of(ErrorKind::not_found, [&] { pipe.load_lora_weights(folder.path(), {.weight_name = "z.safetensors"}); }),
      "a.safetensors"));
}

TEST(Load, BadFilesAreNamedWithTheReason) {
  TinyPipeline pipe;
  TemporaryFolder folder;
  auto refused = TinyPipeline::folder() / "refused";
  auto message = [&](ErrorKind kind, const std::filesystem::path& file) {
    auto text = error_of(kind, [&] { pipe.load_lora_weights(file); });
    EXPECT_TRUE(pipe.get_list_adapters().empty());
    return text;
  };
  EXPECT_TRUE(contains(message(ErrorKind::not_found, folder / "none.safetensors"), "no such file"));
  EXPECT_TRUE(contains(message(ErrorKind::bad_key, refused / "half_pair_kohya.safetensors"), "one half of a pair"));
  EXPECT_TRUE(contains(message(ErrorKind::bad_key, refused / "half_pair_peft.safetensors"), "one half of a pair"));
  EXPECT_TRUE(contains(message(ErrorKind::bad_key, refused / "not_a_lora.safetensors"), "UNet's own weights"));
  EXPECT_TRUE(contains(message(ErrorKind::bad_key, refused / "empty.safetensors"), "no tensors"));
  EXPECT_TRUE(contains(message(ErrorKind::bad_shape, refused / "wrong_architecture.safetensors"), "SDXL"));
  EXPECT_TRUE(contains(message(ErrorKind::bad_shape, refused / "sd15.safetensors"), "SD 1.x"));
  EXPECT_TRUE(contains(message(ErrorKind::bad_shape, refused / "bad_shape_in.safetensors"), "the model's is"));
  EXPECT_TRUE(contains(message(ErrorKind::bad_shape, refused / "bad_shape_out.safetensors"), "the model's is"));
  EXPECT_TRUE(contains(message(ErrorKind::bad_shape, refused / "bad_rank.safetensors"), "rank"));
  EXPECT_TRUE(contains(message(ErrorKind::bad_key, refused / "unknown_layers.safetensors"), "change nothing"));
  std::filesystem::copy(kKohya, folder / "cut.safetensors");
  std::filesystem::resize_file(folder / "cut.safetensors", std::filesystem::file_size(kKohya) - 100);
  EXPECT_TRUE(contains(message(ErrorKind::bad_file, folder / "cut.safetensors"), "cut.safetensors"));
}

TEST(Load, UnmatchedLayersAreListedAndTheRestLoads) {
  TinyPipeline pipe;
  auto tensors = load_state_dict(TinyPipeline::file("kohya_unet_only.safetensors"));
  tensors.set("lora_unet_up_blocks_7_resnets_0_conv1.lora_down.weight", at::zeros({2, 8, 3, 3}));
  tensors.set("lora_unet_up_blocks_7_resnets_0_conv1.lora_up.weight", at::zeros({8, 2, 1, 1}));
  tensors.set("lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", at::zeros({2, 8}));
  auto report = pipe.load_lora_weights(tensors);
  EXPECT_GT(report.matched_layers(), 10u);
  ASSERT_EQ(report.unmatched.size(), 2u);
  EXPECT_TRUE(contains(report.unmatched[0].reason, "no such layer"));
  EXPECT_TRUE(contains(report.unmatched[1].reason, "no such component"));
  EXPECT_TRUE(contains(report.json(), "up_blocks.7"));
  EXPECT_TRUE(contains(report.text(), "not matched: 2"));
}

TEST(SetAdapters, ChecksNamesAndWeights) {
  TinyPipeline pipe;
  pipe.load_lora_weights(kKohya, {.adapter_name = "pixel"});
  pipe.load_lora_weights(kPeft, {.adapter_name = "ink"});
  EXPECT_TRUE(contains(error_of(ErrorKind::not_found, [&] { pipe.set_adapters({"pixle"}); }), "pixel, ink"));
  EXPECT_TRUE(contains(error_of(ErrorKind::usage,
                                [&] {
                                  pipe.set_adapters({"pixel", "ink"}, {1, 2, 3});
                                }),
                       "2 adapters, but 3 weights"));
  error_of(ErrorKind::usage, [&] { pipe.set_adapters({"pixel"}, {std::nan("")}); });
  EXPECT_EQ(pipe.get_active_adapters(), Names{"ink"}) << "a failed call changes nothing";
  pipe.set_adapters({"pixel", "ink"}, {0.5});
  EXPECT_EQ(pipe.get_active_adapters(), (Names{"pixel", "ink"}));
}

TEST(SetAdapters, WeightsActLinearlyAndZeroIsTheBase) {
  TinyPipeline pipe;
  auto base = pipe.run("unet");
  pipe.load_lora_weights(kKohya, {.adapter_name = "a"});
  auto full = pipe.run("unet");
  pipe.set_adapters({"a"}, {0.5});
  auto half = pipe.run("unet");
  EXPECT_FALSE(at::equal(half, full));
  pipe.set_adapters({"a"}, {0});
  EXPECT_TRUE(at::equal(pipe.run("unet"), base));
  pipe.set_adapters({"a"});
  EXPECT_TRUE(at::equal(pipe.run("unet"), full));
}

TEST(Enable, DisabledIsTheBaseFusedOrNot) {
  TinyPipeline pipe;
  auto base = pipe.run("unet");
  auto weights = pipe.weights();
  pipe.load_lora_weights(kKohya);
  auto active = pipe.run("unet");
  pipe.disable_lora();
  EXPECT_TRUE(at::equal(pipe.run("unet"), base));
  pipe.enable_lora();
  EXPECT_TRUE(at::equal(pipe.run("unet"), active));
  pipe.fuse_lora();
  auto fused = pipe.run("unet");
  pipe.disable_lora();
  expect_same_weights(pipe.weights(), weights);
  EXPECT_TRUE(at::equal(pipe.run("unet"), base));
  EXPECT_EQ(pipe.num_fused_loras(), 1);
  pipe.enable_lora();
  EXPECT_TRUE(at::equal(pipe.run("unet"), fused));
}

TEST(Fuse, CountersAndRemarksAreTrue) {
  TinyPipeline pipe;
  pipe.load_lora_weights(kKohya, {.adapter_name = "a"});
  pipe.load_lora_weights(kPeft, {.adapter_name = "b"});
  pipe.fuse_lora({.adapter_names = {"a"}});
  EXPECT_EQ(pipe.fused_loras(), Names{"a"});
  auto remarks = pipe.set_adapters({"a", "b"});
  ASSERT_EQ(remarks.size(), 1u);
  EXPECT_TRUE(contains(remarks[0], "\"a\" is fused"));
  pipe.fuse_lora();
  EXPECT_EQ(pipe.num_fused_loras(), 2);
  pipe.delete_adapters({"a"});
  EXPECT_EQ(pipe.fused_loras(), Names{"b"});
  pipe.unfuse_lora();
  EXPECT_EQ(pipe.num_fused_loras(), 0);
}

TEST(Fuse, ChecksComponentsAndNames) {
  TinyPipeline pipe;
  pipe.load_lora_weights(kKohya, {.adapter_name = "a"});
  EXPECT_TRUE(contains(error_of(ErrorKind::usage, [&] { pipe.fuse_lora({.components = {"transformer"}}); }),
                       "unet, text_encoder"));
  error_of(ErrorKind::not_found, [&] { pipe.fuse_lora({.adapter_names = {"zzz"}}); });
  auto weights = pipe.weights();
  pipe.fuse_lora({.components = {"text_encoder"}});
  auto after = pipe.weights();
  size_t changed = 0;
  for (size_t i = 0; i < after.size(); ++i) {
    bool same = same_bits(after[i].second, weights[i].second);
    changed += !same;
    EXPECT_TRUE(same || !after[i].first.starts_with("unet.")) << after[i].first;
  }
  EXPECT_GT(changed, 0u);
}

TEST(Fuse, SafeFusingNamesTheLayersAndWritesNothing) {
  TinyPipeline pipe;
  auto weights = pipe.weights();
  auto tensors = load_state_dict(kPeft);
  auto factor = tensors.at("unet.mid_block.attentions.0.proj_in.lora_B.weight").clone();
  tensors.set("unet.mid_block.attentions.0.proj_in.lora_B.weight", factor);
  pipe.load_lora_weights(tensors);
  factor.fill_(std::nan(""));
  auto message = error_of(ErrorKind::unsupported, [&] { pipe.fuse_lora({.safe_fusing = true}); });
  EXPECT_TRUE(contains(message, "NaN or infinity")) << message;
  EXPECT_EQ(pipe.num_fused_loras(), 0);
  expect_same_weights(pipe.weights(), weights);
}

TEST(Load, LayersThatAreNotFiniteArePassedOverAndTold) {
  TinyPipeline pipe;
  auto report = pipe.load_lora_weights(TinyPipeline::folder() / "refused" / "nan.safetensors");
  ASSERT_EQ(report.notes.size(), 1u);
  EXPECT_TRUE(contains(report.notes[0], "NaN or infinity")) << report.notes[0];
  EXPECT_TRUE(contains(report.notes[0], "attn2.to_k")) << report.notes[0];
  EXPECT_TRUE(at::isfinite(pipe.run("unet")).all().item<bool>());
}

TEST(Unload, BringsTheBaseBackOrLeavesWhatIsFused) {
  TinyPipeline pipe;
  auto base = pipe.run("unet");
  auto weights = pipe.weights();
  pipe.load_lora_weights(kKohya);
  pipe.unload_lora_weights();
  EXPECT_TRUE(pipe.get_list_adapters().empty());
  EXPECT_TRUE(at::equal(pipe.run("unet"), base));
  pipe.load_lora_weights(kKohya);
  pipe.fuse_lora();
  auto fused = pipe.run("unet");
  pipe.unload_lora_weights();
  EXPECT_TRUE(at::equal(pipe.run("unet"), fused));
  EXPECT_EQ(pipe.num_fused_loras(), 1);
  pipe.unfuse_lora();
  expect_same_weights(pipe.weights(), weights);
}

TEST(Delete, UnknownNamesAreAnError) {
  TinyPipeline pipe;
  EXPECT_TRUE(contains(error_of(ErrorKind::not_found, [&] { pipe.delete_adapters({"a"}); }), "no adapter is"));
}

TEST(Device, AnAdapterElsewhereIsRefusedWhenNeeded) {
  TinyPipeline pipe;
  pipe.load_lora_weights(kKohya, {.adapter_name = "a"});
  auto active = pipe.run("unet");
  pipe.load_lora_weights(kPeft, {.adapter_name = "b"});
  pipe.set_lora_device({"a"}, at::kMeta);
  EXPECT_NO_THROW(pipe.run("unet")) << "an inactive one may be anywhere";
  pipe.set_adapters({"a"});
  EXPECT_TRUE(contains(error_of(ErrorKind::conflict, [&] { pipe.run("unet"); }), "set_lora_device"));
}

TEST(Save, ComesBackWithTheSameOutput) {
  TinyPipeline pipe;
  TemporaryFolder folder;
  for (const auto& name :
       {"kohya.safetensors", "kohya_layer_alphas.safetensors", "kohya_conv.safetensors", "peft_rslora.safetensors"}) {
    SCOPED_TRACE(name);
    pipe.load_lora_weights(TinyPipeline::file(name), {.adapter_name = "a"});
    auto unet = pipe.run("unet"), text = pipe.run("text_encoder");
    auto list = pipe.get_list_adapters();
    auto layers = [&](const std::string& component) {
      return list.contains(component) ? pipe.get_lora_layers(component, "a") : StateDict();
    };
    StableDiffusionLoraLoaderMixin::save_lora_weights(folder / name, layers("unet"), layers("text_encoder"));
    pipe.delete_adapters({"a"});
    pipe.load_lora_weights(folder / name, {.adapter_name = "a"});
    expect_close(pipe.run("unet"), unet, 1e-6);
    expect_close(pipe.run("text_encoder"), text, 1e-6);
    pipe.delete_adapters({"a"});
  }
}

TEST(Save, ChecksItsArguments) {
  TemporaryFolder folder;
  StateDict layers{{"conv_in.lora_A.weight", at::zeros({1, 4, 3, 3})},
                   {"conv_in.lora_B.weight", at::zeros({8, 1, 1, 1})}};
  using Mixin = StableDiffusionLoraLoaderMixin;
  error_of(ErrorKind::usage, [&] { Mixin::save_lora_weights(folder.path(), StateDict()); });
  std::ofstream(folder / "file") << "x";
  EXPECT_TRUE(contains(error_of(ErrorKind::io, [&] { Mixin::save_lora_weights(folder / "file", layers); }),
                       "a folder is wanted"));
  Mixin::save_lora_weights(folder / "none", layers, {}, {.is_main_process = false});
  EXPECT_FALSE(std::filesystem::exists(folder / "none"));
  Mixin::save_lora_weights(folder / "pickle", layers, {}, {.safe_serialization = false});
  EXPECT_EQ(load_state_dict(folder / "pickle/pytorch_lora_weights.bin").size(), 2u);
  std::string given;
  Mixin::save_lora_weights(
      folder / "own", layers, {},
      {.weight_name = "x.safetensors", .save_function = [&](const StateDict& tensors, const auto& path) {
         given = path.filename().string() + " " + tensors.begin()->first;
       }});
  EXPECT_EQ(given, "x.safetensors unet.conv_in.lora_A.weight");
}

TEST(ComponentCalls, LoadOneComponentEach) {
  TinyPipeline pipe;
  pipe.load_lora_weights(kKohya, {.adapter_name = "whole"});
  auto unet = pipe.run("unet"), text = pipe.run("text_encoder");
  pipe.unload_lora_weights();
  auto lora = pipe.lora_state_dict(kKohya);
  EXPECT_FALSE(lora.network_alphas.empty());
  auto report = pipe.load_lora_into_unet(lora.state_dict, lora.network_alphas, pipe.unet, {.adapter_name = "parts"});
  EXPECT_EQ(report.components.size(), 1u);
  pipe.load_lora_into_text_encoder(lora.state_dict, lora.network_alphas, pipe.text_encoder, {.adapter_name = "parts"});
  EXPECT_TRUE(at::equal(pipe.run("unet"), unet));
  EXPECT_TRUE(at::equal(pipe.run("text_encoder"), text));
}

TEST(Match, ReportsWithoutLoading) {
  TinyPipeline pipe;
  auto report = pipe.match_lora(kKohya);
  EXPECT_GT(report.matched_layers(), 10u);
  EXPECT_TRUE(pipe.get_list_adapters().empty());
}

}  // namespace lora
