// What diffusers' own LoRA tests ask of a pipeline, here of the adapter calls on the UNet and the text encoder:
// weights, lists, fusing. The numbers are those of the table in docs/behaviour.md.
#include "loaders/behaviour.h"

namespace lora {

// ---- One adapter ----------------------------------------------------------------------------------------------------

TEST(Behaviour, S1_TheBaseKeepsShapes) {
  TinyPipeline pipe;
  auto inputs = load_state_dict(TinyPipeline::folder() / "expected.safetensors");
  EXPECT_EQ(pipe.run("unet").sizes(), inputs.at("inputs.sample").sizes());
  auto ids = inputs.at("inputs.input_ids");
  EXPECT_EQ(pipe.run("text_encoder").sizes(), (std::vector<int64_t>{ids.size(0), ids.size(1), 16}));
}

TEST(Behaviour, S2_ATextAdapterChangesTheTextEncoderAlone) {
  TinyPipeline pipe;
  auto base = run(pipe);
  pipe.load_lora_weights(kTextOnly);
  auto adapted = run(pipe);
  expect_differ(adapted.text, base.text);
  EXPECT_TRUE(at::equal(adapted.unet, base.unet));
}

TEST(Behaviour, S3_PicklesComeBackEitherWay) {
  TinyPipeline pipe;
  TemporaryFolder folder;
  pipe.load_lora_weights(kPeft, {.adapter_name = "a"});
  auto wanted = run(pipe);
  save(pipe, "a", folder.path(), {.safe_serialization = false});
  EXPECT_TRUE(std::filesystem::exists(folder / "pytorch_lora_weights.bin"));
  for (bool low : {false, true}) {
    pipe.unload_lora_weights();
    pipe.load_lora_weights(folder.path(), {.low_cpu_mem_usage = low});
    expect_same(run(pipe), wanted);
  }
}

TEST(Behaviour, S4_S11_HalfDiffersZeroIsTheBaseAndOneComesBack) {
  for (const auto& file : {kTextOnly, kKohya}) {
    TinyPipeline pipe;
    auto base = run(pipe);
    pipe.load_lora_weights(file, {.adapter_name = "a"});
    auto full = run(pipe);
    pipe.set_adapters({"a"}, {0.5});
    auto half = run(pipe);
    expect_differ(half.text, full.text);
    expect_differ(half.text, base.text);
    if (file == kKohya) expect_differ(half.unet, full.unet);
    pipe.set_adapters({"a"}, {0});
    expect_same(run(pipe), base);
    pipe.set_adapters({"a"});
    expect_same(run(pipe), full);
  }
}

TEST(Behaviour, S5_S12_FusedDiffersFromTheBaseAndAdaptersStay) {
  for (const auto& file : {kTextOnly, kKohya}) {
    TinyPipeline pipe;
    auto base = run(pipe);
    pipe.load_lora_weights(file, {.adapter_name = "a"});
    auto active = run(pipe);
    auto list = pipe.get_list_adapters();
    pipe.fuse_lora();
    auto fused = run(pipe);
    expect_differ(fused.text, base.text);
    expect_near(fused, active);
    EXPECT_EQ(pipe.get_list_adapters(), list);
  }
}

TEST(Behaviour, S6_S13_UnloadedIsTheBase) {
  for (const auto& file : {kTextOnly, kKohya}) {
    TinyPipeline pipe;
    auto base = run(pipe);
    pipe.load_lora_weights(file);
    expect_differ(run(pipe).text, base.text);
    pipe.unload_lora_weights();
    EXPECT_TRUE(pipe.get_list_adapters().empty());
    EXPECT_TRUE(pipe.get_active_adapters().empty());
    expect_same(run(pipe), base);
  }
}

TEST(Behaviour, S7_S10_SavedAdaptersComeBack) {
  for (const char* name : {"kohya_te_only", "peft", "peft_patterns", "peft_metadata", "peft_bias", "peft_dora",
                           "peft_rslora", "peft_mixed_ranks", "kohya_mixed_ranks", "kohya_layer_alphas"}) {
    SCOPED_TRACE(name);
    TinyPipeline pipe;
    TemporaryFolder folder;
    auto base = run(pipe);
    auto report = pipe.load_lora_weights(TinyPipeline::file(name + std::string(".safetensors")), {.adapter_name = "a"});
    auto wanted = run(pipe);
    auto list = pipe.get_list_adapters();
    save(pipe, "a", folder.path());
    pipe.unload_lora_weights();
    expect_same(run(pipe), base);
    auto again = pipe.load_lora_weights(folder.path(), {.adapter_name = "a"});
    EXPECT_TRUE(again.unmatched.empty());
    EXPECT_EQ(again.matched_layers(), report.matched_layers());
    EXPECT_EQ(pipe.get_list_adapters(), list);
    expect_near(run(pipe), wanted, 1e-6);
  }
}

TEST(Behaviour, S8_RanksMayDifferAndLayersMayBeMissing) {
  auto tensors = random_lora("text_encoder", {.r = 2,
                                              .lora_alpha = 2,
                                              .target_modules = {"q_proj", "k_proj", "v_proj", "out_proj"},
                                              .rank_pattern = {{"q_proj", 1}, {"layers\\.1.*v_proj", 3}}});
  tensors = only(tensors, [](const std::string& key) { return !contains(key, "layers.0.self_attn.k_proj"); });
  TinyPipeline pipe;
  auto base = run(pipe);
  auto report = pipe.load_lora_weights(tensors);
  ASSERT_EQ(report.components.size(), 1u);
  std::map<std::string, int64_t> ranks;
  for (const auto& layer : report.components[0].layers) ranks[layer.path] = layer.rank;
  EXPECT_EQ(ranks.size(), 7u);
  EXPECT_EQ(ranks.at("text_model.encoder.layers.0.self_attn.q_proj"), 1);
  EXPECT_EQ(ranks.at("text_model.encoder.layers.0.self_attn.v_proj"), 2);
  EXPECT_EQ(ranks.at("text_model.encoder.layers.1.self_attn.v_proj"), 3);
  expect_differ(run(pipe).text, base.text);
}

TEST(Behaviour, S9_SavedModelsHoldWhatIsFusedAndNothingElse) {
  TinyPipeline pipe;
  TemporaryFolder folder;
  auto base = run(pipe);
  auto reloaded = [&](const char* name) {
    pipe.text_encoder.save_pretrained(folder / name);
    return TinyPipeline::run(CLIPTextModel::from_pretrained(folder / name, {.dtype = at::kFloat}));
  };
  pipe.load_lora_weights(kTextOnly);
  EXPECT_TRUE(at::equal(reloaded("active"), base.text));
  pipe.fuse_lora();
  EXPECT_TRUE(at::equal(reloaded("fused"), run(pipe).text));
}

TEST(Behaviour, S14_FuseThenUnfuse) {
  TinyPipeline pipe;
  auto weights = pipe.weights();
  pipe.load_lora_weights(kKohya, {.adapter_name = "a"});
  auto active = run(pipe);
  pipe.fuse_lora({.components = {"unet", "text_encoder"}});
  EXPECT_EQ(pipe.num_fused_loras(), 1);
  expect_near(run(pipe), active);
  pipe.unfuse_lora({.components = {"unet", "text_encoder"}});
  EXPECT_EQ(pipe.num_fused_loras(), 0);
  EXPECT_EQ(pipe.get_active_adapters(), Names{"a"});
  expect_same_weights(pipe.weights(), weights);
  expect_same(run(pipe), active);
}

TEST(Behaviour, S32_AfterUnloadingANewAdapterCanBeMade) {
  TinyPipeline pipe;
  auto base = run(pipe);
  pipe.load_lora_weights(kKohya);
  pipe.unload_lora_weights();
  pipe.create_adapter("unet", {.adapter_name = "new", .target_modules = {"to_q"}, .init_lora_weights = Init::random});
  EXPECT_EQ(pipe.get_list_adapters(), (Listing{{"unet", {"new"}}}));
  expect_differ(run(pipe).unet, base.unet);
}

TEST(Behaviour, S33_LoadDeleteLoad) {
  TinyPipeline pipe;
  auto base = run(pipe);
  pipe.load_lora_weights(kKohya, {.adapter_name = "a"});
  auto first = run(pipe);
  pipe.delete_adapters({"a"});
  expect_same(run(pipe), base);
  pipe.load_lora_weights(kKohya, {.adapter_name = "a"});
  expect_same(run(pipe), first);
}

// ---- Several adapters -----------------------------------------------------------------------------------------------

TEST(Behaviour, S15_TwoAdaptersEachAndBoth) {
  TinyPipeline pipe;
  auto base = run(pipe);
  pipe.load_lora_weights(kKohya, {.adapter_name = "a"});
  pipe.load_lora_weights(kPeft, {.adapter_name = "b"});
  pipe.set_adapters({"a"});
  auto a = run(pipe);
  pipe.set_adapters({"b"});
  auto b = run(pipe);
  pipe.set_adapters({"a", "b"});
  auto both = run(pipe);
  expect_differ(a, b);
  expect_differ(a, both);
  expect_differ(b, both);
  pipe.set_adapters({"b", "a"});
  expect_near(run(pipe), both);  // the order does not matter
  pipe.disable_lora();
  expect_same(run(pipe), base);
}

TEST(Behaviour, S16_AnUnknownNameIsRefusedAndTheNextCallWorks) {
  TinyPipeline pipe;
  pipe.load_lora_weights(kKohya, {.adapter_name = "a"});
  auto active = run(pipe);
  EXPECT_TRUE(contains(error_of(ErrorKind::not_found, [&] { pipe.set_adapters({"a", "x"}, {0.5, 0.5}); }), "\"x\""));
  expect_same(run(pipe), active);
  pipe.set_adapters({"a"}, {0.5});
  expect_differ(run(pipe), active);
}

TEST(Behaviour, S17_UnknownComponentsAreRemarkedInOrder) {
  TinyPipeline pipe;
  pipe.load_lora_weights(kKohya, {.adapter_name = "a"});
  auto full = run(pipe);
  pipe.set_adapters({"a"}, {0.5});
  auto remarks = pipe.set_adapters({"a"}, {LoraScale{{"vae", 0.1}, {"transformer", 0.2}}});
  ASSERT_EQ(remarks.size(), 1u);
  EXPECT_TRUE(contains(remarks[0], "transformer, vae")) << remarks[0];
  EXPECT_TRUE(contains(remarks[0], "unet, text_encoder")) << remarks[0];
  expect_same(run(pipe), full);  // what is not named is 1
}

TEST(Behaviour, S18_BlockWeightsChangeTheOutput) {
  TinyPipeline pipe;
  auto base = run(pipe);
  pipe.load_lora_weights(kKohya, {.adapter_name = "a"});
  auto full = run(pipe);
  pipe.set_adapters({"a"}, {LoraScale{{"unet", {{"down", 0.5}, {"mid", 0.2}, {"up", {{"block_1", 0.1}}}}}}});
  auto blocks = run(pipe);
  expect_differ(blocks.unet, full.unet);
  expect_differ(blocks.unet, base.unet);
  EXPECT_TRUE(at::equal(blocks.text, full.text));
  pipe.set_adapters({"a"}, {LoraScale{{"unet", {{"down", 1.0}, {"mid", 1.0}, {"up", 1.0}}}}});
  expect_near(run(pipe), full);
  pipe.disable_lora();
  expect_same(run(pipe), base);
}

TEST(Behaviour, S19_EachAdapterHasItsOwnBlockWeights) {
  TinyPipeline pipe;
  pipe.load_lora_weights(kKohya, {.adapter_name = "a"});
  pipe.load_lora_weights(kPeft, {.adapter_name = "b"});
  LoraScale down{{"unet", {{"down", 0.0}}}}, up{{"unet", {{"up", 0.0}}}};
  pipe.set_adapters({"a", "b"}, {down, up});
  auto one = run(pipe);
  pipe.set_adapters({"a", "b"}, {up, down});
  auto other = run(pipe);
  expect_differ(one.unet, other.unet);
  error_of(ErrorKind::usage, [&] { pipe.set_adapters({"a", "b"}, Weights{down, up, up}); });
  expect_same(run(pipe), other);
}

// Every shape of a part's value, with the weight that each place is to have.
struct PartShape {
  std::string value;  // JSON; none: the part is not named
  std::function<double(int64_t block, int64_t layer)> weight;
};

TEST(Behaviour, S20_EveryShapeOfBlockWeightsIsTaken) {
  std::vector<PartShape> downs{
      {"", [](auto, auto) { return 1.0; }},
      {"0.5", [](auto, auto) { return 0.5; }},
      {"[0.25]", [](auto, auto) { return 0.25; }},
      {"{\"block_1\": 0.75}", [](auto block, auto) { return block == 1 ? 0.75 : 1.0; }},
      {"{\"block_0\": [0.1], \"block_1\": 0}", [](auto block, auto) { return block ? 0 : 0.1; }}};
  std::vector<PartShape> mids{{"", [](auto, auto) { return 1.0; }},
                              {"0.3", [](auto, auto) { return 0.3; }},
                              {"[0.7]", [](auto, auto) { return 0.7; }}};
  std::vector<PartShape> ups{{"", [](auto, auto) { return 1.0; }},
                             {"-2", [](auto, auto) { return -2.0; }},
                             {"[0.4]", [](auto, auto) { return 0.4; }},
                             {"[0.2, 0.6]", [](auto, auto layer) { return layer ? 0.6 : 0.2; }},
                             {"{\"block_0\": 0.2}", [](auto block, auto) { return block == 0 ? 0.2 : 1.0; }},
                             {"{\"block_0\": [0.9], \"block_1\": [0.3, 0]}", [](auto block, auto layer) {
                                return block == 0 ? 0.9 : layer ? 0.0 : 0.3;
                              }}};

  auto tensors = everywhere();
  TinyPipeline pipe;
  pipe.load_lora_weights(tensors, {.adapter_name = "a"});
  std::set<std::string> places;
  for (const auto& down : downs)
    for (const auto& mid : mids)
      for (const auto& up : ups) {
        std::string parts;
        for (auto [name, shape] : {std::pair{"down", &down}, {"mid", &mid}, {"up", &up}})
          if (!shape->value.empty())
            parts += (parts.empty() ? "\"" : ", \"") + std::string(name) + "\": " + shape->value;
        auto text = "{\"unet\": {" + parts + "}}";
        SCOPED_TRACE(text);
        auto scale = LoraScale::parse(text);
        auto weight = [&](const std::string& path) {  // unet.up_blocks.1.resnets.0.conv1
          auto number = [&](const std::string& list) -> int64_t {
            auto at = path.find(list + ".");
            return at == path.npos ? 0 : path.at(at + list.size() + 1) - '0';
          };
          auto layer = std::max(number("attentions"), number("resnets"));  // samplers go with the first
          places.insert(path.substr(0, path.find_first_of('.', 5)));
          if (contains(path, "down_blocks.")) return down.weight(number("down_blocks"), layer);
          if (contains(path, "mid_block.")) return mid.weight(0, layer);
          return contains(path, "up_blocks.") ? up.weight(number("up_blocks"), layer) : 1.0;
        };
        auto wanted = scaled_by_hand(tensors, weight);
        auto got = with_prefix("unet", pipe.get_lora_layers("unet", Names{"a"}, {scale}));
        ASSERT_EQ(got.size(), wanted.size());
        for (const auto& [key, tensor] : wanted) EXPECT_TRUE(at::allclose(got.at(key), tensor, 1e-6, 0)) << key;
        EXPECT_TRUE(pipe.set_adapters({"a"}, {scale}).empty());
      }
  EXPECT_TRUE(places.contains("unet.conv_in") && places.contains("unet.time_embedding"));
}

TEST(Behaviour, S21_DeleteOneOrAll) {
  TinyPipeline pipe;
  auto base = run(pipe);
  auto load_both = [&] {
    pipe.load_lora_weights(kKohya, {.adapter_name = "a"});
    pipe.load_lora_weights(kPeft, {.adapter_name = "b"});
    pipe.set_adapters({"a", "b"});
  };
  load_both();
  pipe.set_adapters({"b"});
  auto b = run(pipe);
  pipe.set_adapters({"a", "b"});
  pipe.delete_adapters({"a"});
  EXPECT_EQ(pipe.get_active_adapters(), Names{"b"});
  expect_same(run(pipe), b);
  pipe.delete_adapters({"b"});
  expect_same(run(pipe), base);
  load_both();
  pipe.delete_adapters({"a", "b"});
  EXPECT_TRUE(pipe.get_list_adapters().empty());
  expect_same(run(pipe), base);
}

TEST(Behaviour, S21_DeletingTheOnlyActiveOneActivatesNoOther) {
  TinyPipeline pipe;
  auto base = run(pipe);
  pipe.load_lora_weights(kKohya, {.adapter_name = "a"});
  pipe.load_lora_weights(kPeft, {.adapter_name = "b"});
  pipe.delete_adapters({"b"});
  EXPECT_TRUE(pipe.get_active_adapters().empty());
  expect_same(run(pipe), base);
}

TEST(Behaviour, S22_AWeightedMixDiffersFromEach) {
  TinyPipeline pipe;
  auto base = run(pipe);
  pipe.load_lora_weights(kKohya, {.adapter_name = "a"});
  auto a = run(pipe);
  pipe.load_lora_weights(kPeft, {.adapter_name = "b"});
  auto b = run(pipe);
  pipe.set_adapters({"a", "b"}, {0.5, 0.6});
  auto mix = run(pipe);
  expect_differ(mix, a);
  expect_differ(mix, b);
  pipe.disable_lora();
  expect_same(run(pipe), base);
}

TEST(Behaviour, S23_S24_ListsSayWhatIsLoadedAndActive) {
  TinyPipeline pipe;
  EXPECT_TRUE(pipe.get_active_adapters().empty());
  EXPECT_TRUE(pipe.get_list_adapters().empty());
  pipe.load_lora_weights(kUnetOnly, {.adapter_name = "a"});
  EXPECT_EQ(pipe.get_active_adapters(), Names{"a"});
  EXPECT_EQ(pipe.get_list_adapters(), (Listing{{"unet", {"a"}}}));
  pipe.load_lora_weights(kKohya, {.adapter_name = "b"});
  EXPECT_EQ(pipe.get_list_adapters(), (Listing{{"unet", {"a", "b"}}, {"text_encoder", {"b"}}}));
  pipe.load_lora_weights(kTextOnly, {.adapter_name = "c"});
  EXPECT_EQ(pipe.get_active_adapters(), Names{"c"});
  EXPECT_EQ(pipe.get_list_adapters(), (Listing{{"unet", {"a", "b"}}, {"text_encoder", {"b", "c"}}}));
  pipe.set_adapters({"a", "c"});
  EXPECT_EQ(pipe.get_active_adapters(), (Names{"a", "c"}));
}

TEST(Behaviour, S25_FuseByNameAndAllTogether) {
  TinyPipeline pipe;
  auto weights = pipe.weights();
  pipe.load_lora_weights(kKohya, {.adapter_name = "a"});
  auto a = run(pipe);
  pipe.load_lora_weights(kPeft, {.adapter_name = "b"});
  pipe.set_adapters({"a", "b"});
  auto both = run(pipe);
  pipe.set_adapters({"a"});
  pipe.fuse_lora({.adapter_names = {"a"}});
  EXPECT_EQ(pipe.num_fused_loras(), 1);
  expect_near(run(pipe), a);
  pipe.set_adapters({"b"});
  expect_near(run(pipe), both);  // one fused, one active
  pipe.unfuse_lora();
  EXPECT_EQ(pipe.num_fused_loras(), 0);
  expect_same_weights(pipe.weights(), weights);
  pipe.fuse_lora({.adapter_names = {"a", "b"}});
  EXPECT_EQ(pipe.num_fused_loras(), 2);
  expect_near(run(pipe), both);
  pipe.unfuse_lora({.adapter_names = {"b"}});
  EXPECT_EQ(pipe.fused_loras(), Names{"a"});
  pipe.set_adapters({"a"});
  expect_near(run(pipe), a);
  pipe.unfuse_lora();
  EXPECT_EQ(pipe.num_fused_loras(), 0);
  expect_same_weights(pipe.weights(), weights);
}

TEST(Behaviour, S25_UnfusingWhatIsNotFusedIsRefused) {
  TinyPipeline pipe;
  pipe.load_lora_weights(kKohya, {.adapter_name = "a"});
  EXPECT_TRUE(
      contains(error_of(ErrorKind::not_found, [&] { pipe.unfuse_lora({.adapter_names = {"a"}}); }), "no adapter is"));
  pipe.unfuse_lora();  // nothing to do is no error
}

TEST(Behaviour, S26_FusedAtAScaleIsActiveAtThatScale) {
  for (double scale : {1.0, 0.8, -0.5, 0.0}) {
    SCOPED_TRACE(scale);
    TinyPipeline pipe;
    pipe.load_lora_weights(kKohya, {.adapter_name = "a"});
    auto full = run(pipe);
    pipe.set_adapters({"a"}, {scale});
    auto active = run(pipe);
    pipe.set_adapters({"a"});
    pipe.fuse_lora({.lora_scale = scale});
    expect_near(run(pipe), active);
    pipe.unfuse_lora();
    expect_same(run(pipe), full);  // the adapter's own weight is as it was
  }
}

TEST(Behaviour, S26_TheScaleOfAFuseIsForTheNamedAdapters) {
  TinyPipeline pipe;
  auto weights = pipe.weights();
  pipe.load_lora_weights(kKohya, {.adapter_name = "a"});
  pipe.load_lora_weights(kPeft, {.adapter_name = "b"});
  pipe.set_adapters({"a", "b"}, {0.3, 1});
  auto weaker = run(pipe);
  pipe.set_adapters({"a", "b"}, {0.5, 1});
  auto both = run(pipe);
  pipe.set_adapters({"b"});
  auto b = run(pipe);
  pipe.fuse_lora({.lora_scale = 0.6, .adapter_names = {"a"}});  // which keeps its weight 0.5, though it is not active
  expect_near(run(pipe), weaker);
  pipe.fuse_lora({.adapter_names = {"a"}});
  expect_near(run(pipe), both);
  pipe.unfuse_lora();
  expect_same(run(pipe), b);
  expect_same_weights(pipe.weights(), weights);
}

TEST(Behaviour, S29_AWeightMeansTheSameAfterSaving) {
  TinyPipeline pipe;
  TemporaryFolder folder;
  pipe.load_lora_weights(kKohya, {.adapter_name = "a"});
  pipe.set_adapters({"a"}, {0.5});
  auto half = run(pipe);
  save(pipe, "a", folder.path());
  pipe.unload_lora_weights();
  pipe.load_lora_weights(folder.path(), {.adapter_name = "b"});
  expect_differ(run(pipe), half);  // a file has no weight
  pipe.set_adapters({"b"}, {0.5});
  expect_near(run(pipe), half, 1e-6);
}

// ---- Block weights in detail ----------------------------------------------------------------------------------------

TEST(BlockWeights, EveryLayerIsFusedAndActiveByTheRule) {
  auto tensors = everywhere();
  LoraScale scale{
      {"unet",
       {{"down", {{"block_1", 0.25}}}, {"mid", 0.5}, {"up", {{"block_0", std::vector{0.3, 0.7}}, {"block_1", 0.0}}}}}};
  auto by_hand = scaled_by_hand(tensors, [](const std::string& path) {
    auto in = [&](const char* start) { return path.starts_with(std::string("unet.") + start); };
    if (in("down_blocks.1.")) return 0.25;
    if (in("mid_block.")) return 0.5;
    if (in("up_blocks.0.resnets.0.") || in("up_blocks.0.upsamplers.")) return 0.3;
    if (in("up_blocks.0.resnets.1.")) return 0.7;
    if (in("up_blocks.1.")) return 0.0;
    return 1.0;  // conv_in, time_embedding, down_blocks.0, conv_out
  });
  TinyPipeline pipe, hand;
  pipe.load_lora_weights(tensors, {.adapter_name = "a"});
  pipe.set_adapters({"a"}, {scale});
  hand.load_lora_weights(by_hand, {.adapter_name = "a"});
  expect_close(pipe.run("unet"), hand.run("unet"), 1e-5);
  pipe.fuse_lora();
  hand.fuse_lora();
  auto got = pipe.weights(), wanted = hand.weights();
  for (size_t i = 0; i < got.size(); ++i) {
    SCOPED_TRACE(got[i].first);
    expect_close(got[i].second, wanted[i].second, 1e-6);
  }
}

TEST(BlockWeights, TextLayersAreNamedByNumberOrRange) {
  auto tensors =
      random_lora("text_encoder", {.r = 2, .lora_alpha = 2, .target_modules = {"q_proj", "v_proj", "fc1", "fc2"}});
  TinyPipeline pipe, hand;
  pipe.load_lora_weights(tensors, {.adapter_name = "a"});
  auto full = pipe.run("text_encoder");
  pipe.set_adapters({"a"}, {LoraScale{{"text_encoder", {{"layer_0", 0.0}, {"layers_1-1", 0.5}}}}});
  hand.load_lora_weights(
      scaled_by_hand(tensors, [](const std::string& path) { return contains(path, "layers.0.") ? 0.0 : 0.5; }));
  expect_close(pipe.run("text_encoder"), hand.run("text_encoder"), 1e-5);
  expect_differ(pipe.run("text_encoder"), full);
  pipe.set_adapters({"a"}, {LoraScale{{"text_encoder", {{"layers_0-1", 0.5}}}}});
  auto range = pipe.run("text_encoder");
  pipe.set_adapters({"a"}, {LoraScale{{"text_encoder", 0.5}}});
  expect_close(range, pipe.run("text_encoder"), 1e-6);
}

TEST(BlockWeights, MistakesNameWhatThereIs) {
  TinyPipeline pipe;
  pipe.load_lora_weights(kKohya, {.adapter_name = "a"});
  auto before = run(pipe);
  auto message = [&](const std::string& text) {
    SCOPED_TRACE(text);
    return error_of(ErrorKind::usage, [&] { pipe.set_adapters({"a"}, {LoraScale::parse(text)}); });
  };
  auto says = [&](const std::string& text, const std::string& part) {
    auto what = message(text);
    EXPECT_TRUE(contains(what, part)) << text << ": " << what;
  };
  says(R"({"unet": {"middle": 1}})", "down, mid, up");
  says(R"({"unet": {"down": {"block_2": 1}}})", "block_0, block_1");
  says(R"({"unet": {"up": {"block": 1}}})", "block_0, block_1");
  says(R"({"unet": {"up": {"block_0": [1, 2, 3]}}})", "the block has 2 layers");
  says(R"({"unet": {"up": [1, 2, 3]}})", "the block has 2 layers");
  says(R"({"unet": {"down": []}})", "a list of 0 numbers");
  says(R"({"unet": {"mid": [1, 2]}})", "takes one");
  says(R"({"unet": {"mid": {"block_0": 1}}})", "takes a number");
  says(R"({"unet": {"up": {"block_0": {"layer_0": 1}}}})", "unet.up.block_0");
  says(R"({"unet": [1, 2]})", "numbers by block");
  says(R"({"text_encoder": {"layer_2": 1}})", "layer_0 to layer_1");
  says(R"({"text_encoder": {"layers_1-0": 1}})", "layers_0-1");
  says(R"({"text_encoder": {"down": 1}})", "layer_0 to layer_1");
  says(R"([1, 2])", "by component");
  says(R"({"unet": "much"})", "a number, a list or an object");
  says("{", "JSON was expected");
  error_of(ErrorKind::usage, [&] { pipe.set_adapters({"a"}, {LoraScale{{"unet", {{"down", INFINITY}}}}}); });
  // What is wrong in the second component leaves the first as it was.
  message(R"({"unet": 0.5, "text_encoder": {"layer_9": 1}})");
  expect_same(run(pipe), before);
}

TEST(BlockWeights, OneDictReachesEveryAdapter) {
  TinyPipeline pipe;
  pipe.load_lora_weights(kKohya, {.adapter_name = "a"});
  pipe.load_lora_weights(kPeft, {.adapter_name = "b"});
  LoraScale dict{{"unet", {{"down", 0.2}, {"up", 0.4}}}, {"text_encoder", 0.3}};
  pipe.set_adapters({"a", "b"}, {dict});
  auto one = run(pipe);
  pipe.set_adapters({"a", "b"}, {dict, dict});
  expect_same(one, run(pipe));
  pipe.set_adapters({"a", "b"}, {dict, 1});
  expect_differ(run(pipe), one);
}

}  // namespace lora
