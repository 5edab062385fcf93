// The same for files: loading, saving, metadata, kinds.
#include "loaders/behaviour.h"

namespace lora {

// ---- Loading --------------------------------------------------------------------------------------------------------

TEST(Behaviour, S28_S47_AFileThatWouldChangeNothingIsAnError) {
  TinyPipeline pipe;
  auto base = run(pipe);
  StateDict other{{"unet.nowhere.to_q.lora_A.weight", at::ones({2, 8})},
                  {"unet.nowhere.to_q.lora_B.weight", at::ones({8, 2})}};
  EXPECT_TRUE(contains(error_of(ErrorKind::bad_key, [&] { pipe.load_lora_weights(other); }), "nowhere"));
  StateDict elsewhere{{"transformer.to_q.lora_A.weight", at::ones({2, 8})},
                      {"transformer.to_q.lora_B.weight", at::ones({8, 2})}};
  error_of(ErrorKind::bad_key, [&] { pipe.load_lora_weights(elsewhere); });
  error_of(ErrorKind::bad_key, [&] { pipe.load_lora_weights(StateDict()); });
  EXPECT_TRUE(pipe.get_list_adapters().empty());
  expect_same(run(pipe), base);
}

TEST(Behaviour, S41_LowMemoryLoadsTheSame) {
  TinyPipeline pipe;
  pipe.load_lora_weights(kKohya, {.adapter_name = "a", .low_cpu_mem_usage = false});
  auto wanted = run(pipe);
  pipe.load_lora_weights(kKohya, {.adapter_name = "b", .low_cpu_mem_usage = true});
  for (const auto& [key, tensor] : pipe.get_lora_layers("unet", "b")) EXPECT_FALSE(tensor.is_meta()) << key;
  expect_same(run(pipe), wanted);
}

TEST(Behaviour, S45_AMissingHalfIsNamed) {
  auto half = only(load_state_dict(kPeft),
                   [](const std::string& key) { return key != "unet.mid_block.attentions.0.proj_in.lora_B.weight"; });
  TinyPipeline pipe;
  auto message = error_of(ErrorKind::bad_key, [&] { pipe.load_lora_weights(half); });
  EXPECT_TRUE(contains(message, "mid_block.attentions.0.proj_in")) << message;
  EXPECT_TRUE(contains(message, "lora_B")) << message;
  EXPECT_TRUE(pipe.get_list_adapters().empty());
}

TEST(Behaviour, S46_AnUnexpectedKeyIsNamedAndStrictRefusesIt) {
  auto tensors = load_state_dict(kPeft);
  tensors.set("unet.mid_block.attentions.7.proj_in.lora_A.weight", at::ones({4, 20, 1, 1}));
  tensors.set("unet.mid_block.attentions.7.proj_in.lora_B.weight", at::ones({20, 4, 1, 1}));
  TinyPipeline pipe;
  auto message = error_of(ErrorKind::bad_key, [&] { pipe.load_lora_weights(tensors, {.strict = true}); });
  EXPECT_TRUE(contains(message, "mid_block.attentions.7.proj_in")) << message;
  EXPECT_TRUE(contains(message, "strict")) << message;
  error_of(ErrorKind::bad_key, [&] { pipe.match_lora(tensors, {.strict = true}); });
  EXPECT_TRUE(pipe.get_list_adapters().empty());
  pipe.load_lora_weights(kPeft, {.adapter_name = "plain", .strict = true});
  auto wanted = run(pipe);
  auto report = pipe.load_lora_weights(tensors, {.adapter_name = "more"});
  ASSERT_EQ(report.unmatched.size(), 1u);
  EXPECT_TRUE(contains(report.unmatched[0].key, "mid_block.attentions.7.proj_in"));
  expect_same(run(pipe), wanted);
}

TEST(Behaviour, S61to63_HubArgumentsDoNotMatterToFilesAndAreNoted) {
  TinyPipeline pipe;
  TemporaryFolder folder;
  std::filesystem::copy(kKohya, folder / "x.safetensors");
  auto plain = pipe.load_lora_weights(folder.path(), {.adapter_name = "plain"});
  EXPECT_TRUE(plain.notes.empty());
  auto wanted = run(pipe);
  HubOptions hub{.force_download = true, .local_files_only = true, .token = "t", .revision = "main"};
  for (const auto& source : {folder.path(), folder / "x.safetensors"}) {
    auto report = pipe.load_lora_weights(source, {.hub = hub});
    ASSERT_EQ(report.notes.size(), 1u);
    for (auto name : {"force_download", "local_files_only", "token", "revision"})
      EXPECT_TRUE(contains(report.notes[0], name)) << report.notes[0];
    EXPECT_FALSE(contains(report.notes[0], "proxies"));
    expect_same(run(pipe), wanted);
  }
}

TEST(Behaviour, PeftsFolderForEachComponentIsOneAdapter) {
  TinyPipeline pipe;
  TemporaryFolder folder;
  StateDict both;
  for (auto [component, leaf, alpha] : {std::tuple{"unet", "to_q", 3.0}, {"text_encoder", "q_proj", 6.0}}) {
    auto layers = random_lora(component, {.r = 2, .target_modules = {leaf}});
    StateDict peft;
    for (const auto& [key, tensor] : layers) {
      if (key.ends_with(".alpha")) continue;
      auto path = key.substr(key.find('.') + 1);
      peft.set("base_model.model." + path, tensor);
      both.set(key, tensor);
      if (key.ends_with(".lora_A.weight"))
        both.set(key.substr(0, key.size() - std::string_view("lora_A.weight").size()) + "alpha",
                 at::scalar_tensor(alpha));
    }
    std::filesystem::create_directories(folder / component);
    save_safetensors(peft, folder / component / "adapter_model.safetensors");
    std::ofstream(folder / component / "adapter_config.json")
        << json{{"peft_type", "LORA"}, {"r", 2}, {"lora_alpha", alpha}};
  }
  pipe.load_lora_weights(both, {.adapter_name = "tensors"});
  auto wanted = run(pipe);
  auto report = pipe.load_lora_weights(folder.path(), {.adapter_name = "folders"});
  EXPECT_EQ(report.dialect, "peft");
  EXPECT_EQ(report.components.size(), 2u);
  EXPECT_TRUE(report.unmatched.empty());
  expect_same(run(pipe), wanted);
}

TEST(Behaviour, AnotherBaseModelIsOneError) {
  TinyPipeline pipe;
  auto refused = [&](const std::string& module, int64_t in) {
    StateDict other{{module + ".lora_down.weight", at::ones({2, in})}, {module + ".lora_up.weight", at::ones({8, 2})}};
    return error_of(ErrorKind::bad_shape, [&] { pipe.load_lora_weights(other); });
  };
  EXPECT_TRUE(contains(refused("lora_unet_joint_blocks_0_x_block_attn_proj", 8), "SD 3"));
  EXPECT_TRUE(contains(refused("lora_unet_double_blocks_0_img_attn_proj", 8), "Flux"));
  EXPECT_TRUE(contains(refused("lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k", 2048), "SDXL"));
  StateDict control{{"lora_controlnet", at::zeros({0})},
                    {"middle_block.1.proj_in.down", at::ones({2, 20})},
                    {"middle_block.1.proj_in.up", at::ones({20, 2})}};
  EXPECT_TRUE(contains(error_of(ErrorKind::bad_key, [&] { pipe.load_lora_weights(control); }), "Control-LoRA"));
  EXPECT_TRUE(pipe.get_list_adapters().empty());
}

TEST(Behaviour, S65_S66_FoldersWithNoneOrSeveral) {
  TinyPipeline pipe;
  TemporaryFolder folder;
  std::filesystem::copy(kKohya, folder / "model.txt");
  EXPECT_TRUE(contains(error_of(ErrorKind::not_found, [&] { pipe.load_lora_weights(folder.path()); }), "model.txt"));
  std::filesystem::copy(kPeft, folder / "b.safetensors");
  std::filesystem::copy(kKohya, folder / "a.safetensors");
  auto report = pipe.load_lora_weights(folder.path());
  EXPECT_EQ(report.source, (folder / "a.safetensors").string());
  ASSERT_EQ(report.notes.size(), 1u);
  EXPECT_TRUE(contains(report.notes[0], "b.safetensors"));
  error_of(ErrorKind::not_found, [&] { pipe.load_lora_weights(folder.path(), {.use_safetensors = false}); });
}

TEST(Behaviour, S78to81_S84to85_EveryTrainersFileChangesTheOutputAndUnloads) {
  TinyPipeline pipe;
  auto base = run(pipe);
  for (const char* name : {"attn_procs", "attn_procs_prefixed", "compatible", "kohya", "kohya_fp16", "kohya_conv",
                           "kohya_conv_dim", "kohya_from_diffusers", "mixed_old_first"}) {
    SCOPED_TRACE(name);
    auto report = pipe.load_lora_weights(TinyPipeline::file(name + std::string(".safetensors")), {.strict = true});
    EXPECT_GT(report.matched_layers(), 0u);
    expect_differ(run(pipe).unet, base.unet);
    pipe.unload_lora_weights();
    expect_same(run(pipe), base);
  }
}

TEST(Behaviour, S86_S87_KohyaLoadUnloadLoad) {
  TinyPipeline pipe;
  auto base = run(pipe);
  pipe.load_lora_weights(kKohya);
  auto first = run(pipe);
  pipe.unload_lora_weights();
  expect_same(run(pipe), base);
  pipe.load_lora_weights(kKohya);
  expect_same(run(pipe), first);
}

TEST(Behaviour, S88_S89_TheSameSourceCanBeReadAgain) {
  TinyPipeline pipe;
  auto tensors = load_state_dict(kKohya);
  auto before = copies(tensors);
  auto keys = pipe.lora_state_dict(tensors).state_dict.size();
  EXPECT_GT(keys, 0u);
  pipe.load_lora_weights(tensors);
  auto first = run(pipe);
  EXPECT_EQ(pipe.lora_state_dict(tensors).state_dict.size(), keys);
  pipe.unload_lora_weights();
  pipe.load_lora_weights(tensors);
  expect_same(run(pipe), first);
  expect_untouched(tensors, before);
}

TEST(Behaviour, S92_NoAlphasAreAllRight) {
  TinyPipeline pipe;
  auto file = TinyPipeline::file("kohya_no_alpha.safetensors");
  pipe.load_lora_weights(file, {.adapter_name = "whole"});
  auto wanted = run(pipe);
  auto lora = pipe.lora_state_dict(file);
  EXPECT_TRUE(lora.network_alphas.empty());
  pipe.unload_lora_weights();
  pipe.load_lora_into_unet(lora.state_dict, {}, pipe.unet, {.adapter_name = "a"});
  pipe.load_lora_into_text_encoder(lora.state_dict, {}, pipe.text_encoder, {.adapter_name = "a"});
  expect_same(run(pipe), wanted);
}

TEST(Behaviour, S68to72_MixedRanksHaveTheirOwnScales) {
  auto ranks = std::vector<std::pair<std::string, int64_t>>{{"to_q", 2}, {"to_v", 6}};
  auto lora = random_lora("unet", {.r = 4,
                                   .lora_alpha = 4,
                                   .target_modules = {"to_q", "to_k", "to_v"},
                                   .rank_pattern = ranks,
                                   .alpha_pattern = {{"to_q", 2.0}, {"to_v", 6.0}}});
  for (const auto& [key, tensor] : lora) ASSERT_FALSE(key.ends_with(".alpha")) << "alpha is the rank everywhere";
  auto scales = [&](const StateDict& tensors) {
    TinyPipeline pipe;
    std::map<std::string, std::pair<int64_t, double>> all;
    auto report = pipe.load_lora_weights(tensors);
    for (const auto& layer : report.components.at(0).layers)
      all[layer.path.substr(layer.path.rfind('.') + 1)] = {layer.rank, layer.scale};
    return all;
  };
  using All = std::map<std::string, std::pair<int64_t, double>>;
  EXPECT_EQ(scales(lora), (All{{"to_q", {2, 1}}, {"to_k", {4, 1}}, {"to_v", {6, 1}}})) << "68";
  StateDict backwards;
  std::vector<StateDict::Item> items(lora.begin(), lora.end());
  for (auto it = items.rbegin(); it != items.rend(); ++it) backwards.set(it->first, it->second);
  EXPECT_EQ(scales(backwards), scales(lora)) << "69";
  EXPECT_EQ(scales(only(lora, [](const std::string& key) { return contains(key, "to_k."); })), (All{{"to_k", {4, 1}}}))
      << "70";
  auto with_alphas = [&](auto alpha_of) {
    auto tensors = lora;
    for (const auto& [key, tensor] : lora)
      if (key.ends_with(kUp)) {
        auto path = key.substr(0, key.size() - kUp.size());
        tensors.set(path + ".alpha", at::scalar_tensor(alpha_of(path)));
      }
    return tensors;
  };
  EXPECT_EQ(scales(with_alphas([](auto&) { return 3.0; })),
            (All{{"to_q", {2, 1.5}}, {"to_k", {4, 0.75}}, {"to_v", {6, 0.5}}}))
      << "71";
  EXPECT_EQ(scales(with_alphas([](auto& path) { return path.ends_with("to_v") ? 12.0 : 2.0; })),
            (All{{"to_q", {2, 1}}, {"to_k", {4, 0.5}}, {"to_v", {6, 2}}}))
      << "72";
}

TEST(ComponentCalls, MetadataSaysWhatTheTensorsDoNot) {
  TinyPipeline pipe;
  auto file = TinyPipeline::file("peft_patterns.safetensors");
  pipe.load_lora_weights(file, {.adapter_name = "whole"});
  auto wanted = run(pipe);
  pipe.unload_lora_weights();
  auto lora = pipe.lora_state_dict(file);
  auto metadata = adapter_metadata(file);
  lora.state_dict.metadata.clear();
  pipe.load_lora_into_unet(lora.state_dict, {}, pipe.unet, {.adapter_name = "plain"});
  expect_differ(pipe.run("unet"), wanted.unet);
  pipe.load_lora_into_unet(lora.state_dict, {}, pipe.unet,
                           {.adapter_name = "a", .metadata = fields_of(metadata, "unet")});
  pipe.load_lora_into_text_encoder(lora.state_dict, {}, pipe.text_encoder,
                                   {.adapter_name = "a", .metadata = fields_of(metadata, "text_encoder")});
  expect_same(run(pipe), wanted);
}

TEST(ComponentCalls, MetadataAndAlphasTogetherAreRefused) {
  TinyPipeline pipe;
  auto lora = pipe.lora_state_dict(kKohya);
  auto message = error_of(ErrorKind::usage, [&] {
    pipe.load_lora_into_unet(lora.state_dict, lora.network_alphas, pipe.unet, {.metadata = R"({"lora_alpha": 4})"});
  });
  EXPECT_TRUE(contains(message, "network_alphas")) << message;
  EXPECT_TRUE(pipe.get_list_adapters().empty());
}

TEST(ComponentCalls, PrefixAndScaleOfTheTextEncoder) {
  TinyPipeline pipe;
  pipe.load_lora_weights(kPeft, {.adapter_name = "whole"});
  pipe.set_adapters({"whole"}, {0.5});
  auto half = pipe.run("text_encoder");
  auto layers = pipe.get_lora_layers("text_encoder", "whole");
  pipe.unload_lora_weights();
  LoadIntoTextEncoderOptions options{.adapter_name = "a"};
  options.prefix = "words";
  options.lora_scale = 0.5;
  pipe.load_lora_into_text_encoder(with_prefix("words", layers), {}, pipe.text_encoder, options);
  EXPECT_TRUE(at::equal(pipe.run("text_encoder"), half));
  error_of(ErrorKind::conflict,
           [&] { pipe.load_lora_into_text_encoder(with_prefix("words", layers), {}, pipe.text_encoder, options); });
  options.adapter_name = "b";
  error_of(ErrorKind::bad_key,
           [&] { pipe.load_lora_into_text_encoder(with_prefix("other", layers), {}, pipe.text_encoder, options); });
}

// ---- Metadata, saving -----------------------------------------------------------------------------------------------

TEST(Behaviour, S30_S39_MetadataIsStoredByComponentAndReadBack) {
  TinyPipeline pipe;
  for (int alpha : {4, 8, 16}) {
    TemporaryFolder folder;
    auto fields = [&](const char* target) {
      return json{{"r", 4}, {"lora_alpha", alpha}, {"target_modules", {target}}, {"rank_pattern", json::object()}};
    };
    auto unet = random_lora("unet", {.r = 4, .lora_alpha = 4, .target_modules = {"to_q"}});
    pipe.load_lora_weights(unet, {.adapter_name = "a"});
    Mixin::save_lora_weights(folder.path(), pipe.get_lora_layers("unet", "a"), {},
                             {.unet_lora_adapter_metadata = fields("to_q").dump()});
    auto file = folder / "pytorch_lora_weights.safetensors";
    EXPECT_EQ(load_state_dict(file).metadata.at("format"), "pt");
    json wanted;
    auto given = fields("to_q");
    for (const auto& [key, value] : given.items()) wanted["unet." + key] = value;
    EXPECT_EQ(adapter_metadata(file), wanted);
    auto read = pipe.lora_state_dict(file).state_dict.metadata.at("lora_adapter_metadata");
    EXPECT_EQ(json::parse(read), wanted);
    pipe.unload_lora_weights();
    auto report = pipe.load_lora_weights(file);
    for (const auto& layer : report.components.at(0).layers) {
      EXPECT_EQ(layer.alpha, alpha);
      EXPECT_EQ(layer.scale, alpha / 4.0);
    }
    pipe.unload_lora_weights();
  }
}

TEST(Behaviour, S31_AlphasSurviveSaving) {
  for (double alpha : {4.0, 8.0, 16.0, 2.5}) {
    SCOPED_TRACE(alpha);
    TinyPipeline pipe;
    TemporaryFolder folder;
    for (auto component : {"unet", "text_encoder"})
      pipe.load_lora_weights(random_lora(component, {.r = 4, .lora_alpha = alpha, .target_modules_regex = ".*q.*"}),
                             {.adapter_name = component});
    Mixin::save_lora_weights(folder.path(), pipe.get_lora_layers("unet", "unet"),
                             pipe.get_lora_layers("text_encoder", "text_encoder"));
    pipe.set_adapters({"unet", "text_encoder"});
    auto wanted = run(pipe);
    auto metadata = load_state_dict(folder / "pytorch_lora_weights.safetensors").metadata;
    EXPECT_EQ(metadata.contains("lora_adapter_metadata"), alpha != 4) << "where the rank says it, nothing else need";
    pipe.unload_lora_weights();
    pipe.load_lora_weights(folder.path());
    expect_near(run(pipe), wanted, 1e-6);
  }
}

TEST(Behaviour, S37_LayersComeBackBitForBit) {
  for (bool dora : {false, true}) {
    TinyPipeline pipe;
    TemporaryFolder folder;
    pipe.load_lora_weights(dora ? TinyPipeline::file("peft_dora.safetensors") : kPeft, {.adapter_name = "a"});
    auto wanted = run(pipe);
    auto layers = pipe.get_lora_layers("unet", "a");
    Mixin::save_lora_weights(folder.path(), layers, {});
    pipe.unload_lora_weights();
    pipe.load_lora_weights(folder.path(), {.adapter_name = "a"});
    auto again = pipe.get_lora_layers("unet", "a");
    ASSERT_EQ(again.size(), layers.size());
    for (const auto& [key, tensor] : layers) EXPECT_TRUE(same_bits(again.at(key), tensor)) << key;
    EXPECT_TRUE(at::equal(pipe.run("unet"), wanted.unet));
  }
}

TEST(Behaviour, S38_LayersOfAnUnknownAdapterAreRefused) {
  TinyPipeline pipe;
  pipe.load_lora_weights(kUnetOnly, {.adapter_name = "a"});
  EXPECT_TRUE(contains(error_of(ErrorKind::not_found, [&] { pipe.get_lora_layers("unet", "b"); }), "\"b\""));
  error_of(ErrorKind::not_found, [&] { pipe.get_lora_layers("text_encoder", "a"); });
  EXPECT_TRUE(contains(error_of(ErrorKind::usage, [&] { pipe.get_lora_layers("vae", "a"); }), "unet, text_encoder"));
}

TEST(Behaviour, S40_BadMetadataIsNamed) {
  TinyPipeline pipe;
  auto tensors = load_state_dict(kPeft);
  tensors.metadata["lora_adapter_metadata"] = R"({"unet.lora_alpha": "much"})";
  auto message = error_of(ErrorKind::bad_file, [&] { pipe.load_lora_weights(tensors); });
  EXPECT_TRUE(contains(message, "unet")) << message;
  tensors.metadata["lora_adapter_metadata"] = "{";
  error_of(ErrorKind::bad_file, [&] { pipe.load_lora_weights(tensors); });
  tensors.metadata["lora_adapter_metadata"] = R"({"unet.alpha_pattern": {"(": 2}})";
  error_of(ErrorKind::bad_file, [&] { pipe.load_lora_weights(tensors); });
  error_of(ErrorKind::usage, [&] { pipe.load_lora_into_unet(tensors, {}, pipe.unet, {.metadata = "x"}); });
  EXPECT_TRUE(pipe.get_list_adapters().empty());
}

TEST(Behaviour, S40_MetadataOfOneComponentLeavesTheOtherToItsTensors) {
  TinyPipeline pipe;
  auto tensors = load_state_dict(kPeft);
  tensors.metadata["lora_adapter_metadata"] = R"({"unet.r": 4, "unet.lora_alpha": 8})";
  auto report = pipe.load_lora_weights(tensors);
  for (const auto& component : report.components)
    for (const auto& layer : component.layers)
      EXPECT_EQ(layer.scale, component.name == "unet" ? 2.0 : 1.0) << component.name << "." << layer.path;
}

TEST(Save, TheEnvironmentChoosesTheKind) {
  TemporaryFolder folder;
  StateDict layers{{"conv_in.lora_A.weight", at::zeros({1, 4, 3, 3})},
                   {"conv_in.lora_B.weight", at::zeros({8, 1, 1, 1})}};
  struct Unset {
    ~Unset() { unsetenv("DIFFUSERS_SAVE_MODE"); }
  } unset;
  auto written = [&](const char* mode, const SaveLoraOptions& options = {}) {
    setenv("DIFFUSERS_SAVE_MODE", mode, 1);
    std::filesystem::remove_all(folder / "out");
    Mixin::save_lora_weights(folder / "out", layers, {}, options);
    Names names;
    for (const auto& file : std::filesystem::directory_iterator(folder / "out"))
      names.push_back(file.path().filename().string());
    return names;
  };
  EXPECT_EQ(written("pickle"), Names{"pytorch_lora_weights.bin"});
  EXPECT_EQ(written("safetensors"), Names{"pytorch_lora_weights.safetensors"});
  EXPECT_EQ(written(""), Names{"pytorch_lora_weights.safetensors"});
  EXPECT_EQ(written("pickle", {.safe_serialization = true}), Names{"pytorch_lora_weights.safetensors"});
  EXPECT_EQ(written("safetensors", {.safe_serialization = false}), Names{"pytorch_lora_weights.bin"});
  EXPECT_TRUE(contains(error_of(ErrorKind::usage, [&] { written("zip"); }), "\"zip\""));
}

TEST(Save, PicklesCannotSayAlphas) {
  TinyPipeline pipe;
  TemporaryFolder folder;
  pipe.load_lora_weights(kKohya, {.adapter_name = "a"});
  error_of(ErrorKind::usage, [&] { save(pipe, "a", folder.path(), {.safe_serialization = false}); });
  EXPECT_FALSE(std::filesystem::exists(folder / "pytorch_lora_weights.bin"));
}

TEST(Layers, AMixOfSeveralDoesWhatTheyDoTogether) {
  TinyPipeline pipe;
  pipe.load_lora_weights(kKohya, {.adapter_name = "a"});
  pipe.load_lora_weights(TinyPipeline::file("peft_conv.safetensors"), {.adapter_name = "b"});
  LoraScale blocks{{"unet", {{"down", 0.5}, {"up", 2.0}}}, {"text_encoder", {{"layer_1", -1.0}}}};
  pipe.set_adapters({"a", "b"}, {blocks, 0.7});
  auto wanted = run(pipe);
  auto mix = joined(with_prefix("unet", pipe.get_lora_layers("unet", {"a", "b"}, {blocks, 0.7})),
                    with_prefix("text_encoder", pipe.get_lora_layers("text_encoder", {"a", "b"}, {blocks, 0.7})));
  EXPECT_EQ(mix.at("unet.mid_block.attentions.0.proj_in.lora_A.weight").size(0), 4 + 2);
  pipe.load_lora_weights(mix, {.adapter_name = "mix"});
  expect_near(run(pipe), wanted);
  error_of(ErrorKind::usage, [&] { pipe.get_lora_layers("unet", Names{"a", "b"}, {1.0, 1.0, 1.0}); });
  error_of(ErrorKind::not_found, [&] { pipe.get_lora_layers("unet", Names{"a", "z"}, {1.0, 1.0}); });
}

TEST(Layers, AMixOfOtherKindsIsRefused) {
  for (const char* name : {"peft_dora.safetensors", "peft_bias.safetensors"}) {
    TinyPipeline pipe;
    pipe.load_lora_weights(TinyPipeline::file(name), {.adapter_name = "a"});
    EXPECT_TRUE(
        contains(error_of(ErrorKind::unsupported, [&] { pipe.get_lora_layers("unet", Names{"a"}, {1.0}); }), "\"a\""));
  }
}

// ---- Kinds ----------------------------------------------------------------------------------------------------------

TEST(Behaviour, S42_SafeFusingRefusesNaNsAndOtherwiseTheyShow) {
  TinyPipeline pipe;
  auto weights = pipe.weights();
  auto tensors = load_state_dict(kPeft);
  const std::string victim = "unet.mid_block.attentions.0.proj_in.lora_B.weight";
  // A file with NaN is not loaded; what is trained may come to hold them.
  auto factor = tensors.at(victim).clone();
  tensors.set(victim, factor);
  pipe.load_lora_weights(tensors);
  factor.fill_(std::nan(""));
  error_of(ErrorKind::unsupported, [&] { pipe.fuse_lora({.safe_fusing = true}); });
  expect_same_weights(pipe.weights(), weights);
  pipe.fuse_lora();
  EXPECT_TRUE(pipe.run("unet").isnan().all().item<bool>());
  pipe.unfuse_lora();
  expect_same_weights(pipe.weights(), weights);
}

TEST(Behaviour, S43_BiasesActAndSurvive) {
  auto tensors = load_state_dict(TinyPipeline::file("peft_bias.safetensors"));
  auto without = only(tensors, [](const std::string& key) { return !key.ends_with("lora_B.bias"); });
  ASSERT_LT(without.size(), tensors.size());
  TinyPipeline pipe;
  auto weights = pipe.weights();
  pipe.load_lora_weights(without, {.adapter_name = "without"});
  auto plain = run(pipe);
  pipe.load_lora_weights(tensors, {.adapter_name = "with"});
  auto biased = run(pipe);
  expect_differ(biased, plain);
  pipe.fuse_lora();
  expect_near(run(pipe), biased);
  pipe.unfuse_lora();
  expect_same_weights(pipe.weights(), weights);
  size_t biases = 0;
  for (const auto& [key, tensor] : pipe.get_lora_layers("unet", "with"))
    if (key.ends_with("lora_B.bias")) {
      EXPECT_TRUE(at::equal(tensor, tensors.at("unet." + key))) << key;
      ++biases;
    }
  EXPECT_EQ(biases, 16u);
}

TEST(Behaviour, S43_ABiasOnALayerWithoutOneIsActiveButCannotBeFused) {
  auto tensors = random_lora("unet", {.r = 2, .lora_alpha = 2, .target_modules = {"attn1.to_q"}, .lora_bias = true});
  for (const auto& [key, tensor] : tensors)
    if (key.ends_with(".bias")) tensor.fill_(0.5);
  TinyPipeline pipe;
  auto weights = pipe.weights();
  pipe.load_lora_weights(only(tensors, [](const std::string& key) { return !key.ends_with(".bias"); }));
  auto plain = run(pipe);
  pipe.load_lora_weights(tensors, {.adapter_name = "a"});
  auto active = run(pipe);
  expect_differ(active.unet, plain.unet);
  auto message = error_of(ErrorKind::unsupported, [&] { pipe.fuse_lora(); });
  EXPECT_TRUE(contains(message, "attn1.to_q")) << message;
  EXPECT_EQ(pipe.num_fused_loras(), 0);
  expect_same_weights(pipe.weights(), weights);
  expect_same(run(pipe), active);
}

TEST(Behaviour, S44_PatternsChangeRanksAndStrengths) {
  CreateAdapterOptions options{.r = 4, .lora_alpha = 4, .target_modules = {"to_q", "to_k"}};
  auto ranked = options, strong = options;
  ranked.rank_pattern = {{"attn2.to_k", 3}, {"to_k", 2}};  // the first that matches
  strong.alpha_pattern = {{"^mid_block.*", 16}};
  std::map<std::string, std::pair<int64_t, double>> layers;
  auto output = [&](const CreateAdapterOptions& wanted) {
    TinyPipeline pipe;
    layers.clear();
    auto report = pipe.load_lora_weights(random_lora("unet", wanted));
    for (const auto& layer : report.components.at(0).layers) layers[layer.path] = {layer.rank, layer.alpha};
    return pipe.run("unet");
  };
  auto plain = output(options);
  auto at = [&](const std::string& path) { return layers.at("mid_block.attentions.0.transformer_blocks.0." + path); };
  expect_differ(output(ranked), plain);
  EXPECT_EQ(at("attn2.to_k").first, 3);
  EXPECT_EQ(at("attn1.to_k").first, 2);
  EXPECT_EQ(at("attn1.to_q").first, 4);
  expect_differ(output(strong), plain);
  EXPECT_EQ(at("attn1.to_q").second, 16);
  EXPECT_EQ(layers.at("down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q").second, 4);
}

TEST(Dora, WeightZeroIsTheBase) {
  TinyPipeline pipe;
  auto base = run(pipe);
  pipe.load_lora_weights(TinyPipeline::file("peft_dora.safetensors"), {.adapter_name = "a"});
  expect_differ(run(pipe).unet, base.unet);
  pipe.set_adapters({"a"}, {0});
  expect_same(run(pipe), base);
}

TEST(Dora, FusedEqualsActiveBesideOthersInEitherOrder) {
  TinyPipeline pipe;
  auto weights = pipe.weights();
  pipe.load_lora_weights(TinyPipeline::file("peft_dora.safetensors"), {.adapter_name = "dora"});
  pipe.load_lora_weights(kKohya, {.adapter_name = "plain"});
  pipe.set_adapters({"dora", "plain"}, {0.7, 0.5});
  auto active = run(pipe);
  for (const auto& order : {Names{"dora", "plain"}, Names{"plain", "dora"}}) {
    pipe.fuse_lora({.adapter_names = order});
    expect_near(run(pipe), active);
    pipe.unfuse_lora();
    expect_same_weights(pipe.weights(), weights);
  }
  pipe.fuse_lora({.adapter_names = {"plain"}});  // the magnitude is of the base, whatever else is fused
  expect_near(run(pipe), active);
  auto tensors = load_state_dict(TinyPipeline::file("peft_dora.safetensors"));
  pipe.delete_adapters({"dora"});
  pipe.load_lora_weights(tensors, {.adapter_name = "dora"});
  pipe.set_adapters({"dora", "plain"}, {0.7, 0.5});
  expect_near(run(pipe), active);
}

// ---- Fusing in any order --------------------------------------------------------------------------------------------

TEST(Behaviour, S67_PartialUnfuseKeepsTheListTrue) {
  TinyPipeline pipe;
  auto base = run(pipe);
  pipe.load_lora_weights(kKohya, {.adapter_name = "a"});
  pipe.fuse_lora();
  pipe.set_adapters({});
  pipe.unfuse_lora({.components = {"unet"}});
  EXPECT_EQ(pipe.fused_loras(), Names{"a"}) << "the text encoder still holds it";
  EXPECT_TRUE(at::equal(pipe.run("unet"), base.unet));
  expect_differ(pipe.run("text_encoder"), base.text);
  pipe.unfuse_lora({.components = {"text_encoder"}});
  EXPECT_EQ(pipe.num_fused_loras(), 0);
  expect_same(run(pipe), base);
}

TEST(Fuse, WhateverHappensBetweenUnfusingIsExact) {
  TinyPipeline pipe;
  auto base = run(pipe);
  auto weights = pipe.weights();
  pipe.load_lora_weights(kKohya, {.adapter_name = "a"});
  pipe.fuse_lora();
  pipe.set_adapters({"a"}, {0.5});
  pipe.unfuse_lora();
  expect_same_weights(pipe.weights(), weights);
  auto half = run(pipe);
  pipe.fuse_lora();
  expect_near(run(pipe), half);
  pipe.fuse_lora({.lora_scale = 3});
  pipe.load_lora_weights(kPeft, {.adapter_name = "b"});  // what is fused stays so
  EXPECT_EQ(pipe.fused_loras(), Names{"a"});
  pipe.fuse_lora();
  pipe.delete_adapters({"a"});
  EXPECT_EQ(pipe.fused_loras(), Names{"b"});
  pipe.disable_lora();
  pipe.unfuse_lora();
  pipe.enable_lora();
  expect_same_weights(pipe.weights(), weights);
  pipe.unload_lora_weights();
  expect_same(run(pipe), base);
}

TEST(Fuse, BakedAndLaterOnesComeOutTogether) {
  TinyPipeline pipe;
  auto weights = pipe.weights();
  pipe.load_lora_weights(kKohya, {.adapter_name = "a"});
  pipe.load_lora_weights(kPeft, {.adapter_name = "b"});
  pipe.set_adapters({"a", "b"});
  auto both = run(pipe);
  pipe.set_adapters({"a"});
  pipe.fuse_lora();
  pipe.unload_lora_weights();
  pipe.load_lora_weights(kPeft, {.adapter_name = "b"});
  pipe.fuse_lora();
  EXPECT_EQ(pipe.num_fused_loras(), 2);
  expect_near(run(pipe), both);
  pipe.unfuse_lora();
  EXPECT_EQ(pipe.num_fused_loras(), 0);
  expect_same_weights(pipe.weights(), weights);
}

TEST(Enable, DisabledStaysSoThroughLoads) {
  TinyPipeline pipe;
  auto base = run(pipe);
  pipe.disable_lora();
  pipe.load_lora_weights(kKohya, {.adapter_name = "a"});
  pipe.set_adapters({"a"}, {0.5});
  expect_same(run(pipe), base);
  pipe.enable_lora();
  expect_differ(run(pipe), base);
}

}  // namespace lora
