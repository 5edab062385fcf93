// Calls as a reader of diffusers' documentation writes them. Each compiles as it stands, and does what it says.
#include <gmock/gmock.h>

#include "checkpoints/repository.h"
#include "loaders/behaviour.h"

namespace lora {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

namespace {

// Two adapters on both components, "ink" and "neon".
struct Loaded : TinyPipeline {
  Loaded() {
    load_lora_weights(kKohya, {.adapter_name = "ink"});
    load_lora_weights(kPeft, {.adapter_name = "neon"});
  }
};

std::string written(const LoraScale& scale) {
  if (scale.number()) return json(*scale.number()).dump();
  std::string text;
  auto add = [&](const std::string& item) { text += (text.empty() ? "" : ", ") + item; };
  if (scale.list()) {
    for (const auto& item : *scale.list()) add(written(item));
    return "[" + text + "]";
  }
  for (const auto& [name, item] : *scale.dict()) add(name + ": " + written(item));
  return "{" + text + "}";
}

std::vector<std::string> written(const AdapterWeights& weights, size_t count) {
  std::vector<std::string> all;
  for (const auto& weight : weights.of(count, "here")) all.push_back(written(weight));
  return all;
}

Names listed(const OneOrMany<std::string>& names) { return names; }

}  // namespace

// ---- Names ----------------------------------------------------------------------------------------------------------

TEST(AsWritten, OneNameOrSeveral) {
  const std::string text = "ink";
  const std::string_view view = "ink";
  const Names several{"ink", "neon"};
  EXPECT_THAT(listed("ink"), ElementsAre("ink"));
  EXPECT_THAT(listed(text), ElementsAre("ink"));
  EXPECT_THAT(listed(view), ElementsAre("ink"));
  EXPECT_THAT(listed({"ink"}), ElementsAre("ink"));
  EXPECT_THAT(listed({text}), ElementsAre("ink"));
  EXPECT_THAT(listed({"ink", "neon"}), ElementsAre("ink", "neon")) << "two, not one text between two pointers";
  EXPECT_THAT(listed({"ink", "neon", "pixel"}), ElementsAre("ink", "neon", "pixel"));
  EXPECT_THAT(listed({text, "neon"}), ElementsAre("ink", "neon"));
  EXPECT_THAT(listed({view, view}), ElementsAre("ink", "ink"));
  EXPECT_THAT(listed(several), ElementsAre("ink", "neon"));
  EXPECT_THAT(listed(Names{"neon"}), ElementsAre("neon"));
  EXPECT_THAT(listed({}), IsEmpty());
  EXPECT_THAT(listed(Names{}), IsEmpty());
}

TEST(AsWritten, OneNumberOrSeveral) {
  int number = 3;
  OneOrMany<uint64_t> one = 7, of_int = number, list = {1, 2}, of_ints = {number, number}, none, empty = {};
  EXPECT_THAT(one.values(), ElementsAre(7u));
  EXPECT_THAT(of_int.values(), ElementsAre(3u));
  EXPECT_THAT(list.values(), ElementsAre(1u, 2u));
  EXPECT_THAT(of_ints.values(), ElementsAre(3u, 3u));
  EXPECT_TRUE(none.empty() && empty.empty());
  list = 5;
  EXPECT_EQ(list.size(), 1u);
  EXPECT_EQ(list.front(), 5u);
  list.push_back(6);
  EXPECT_EQ(list[1], 6u);
  const std::vector<uint64_t>& values = list;
  EXPECT_EQ(std::vector<uint64_t>(list.begin(), list.end()), values);
  auto copy = list;
  EXPECT_EQ(copy.values(), values);
}

TEST(AsWritten, OneNameWhereAListIsTaken) {
  Loaded pipe;
  const auto base = pipe.weights();
  pipe.fuse_lora({.components = "unet", .adapter_names = "ink"});
  EXPECT_THAT(pipe.fused_loras(), ElementsAre("ink"));
  Loaded wanted;
  wanted.fuse_lora({.components = {"unet"}, .adapter_names = {"ink"}});
  expect_same_weights(pipe.weights(), wanted.weights());
  pipe.fuse_lora({.adapter_names = {"ink", "neon"}});
  pipe.unfuse_lora({.adapter_names = "neon"});
  EXPECT_THAT(pipe.fused_loras(), ElementsAre("ink"));
  pipe.unfuse_lora({.components = "text_encoder"});
  expect_same_weights(pipe.weights(), wanted.weights());
  pipe.unfuse_lora({.components = {"unet"}, .adapter_names = "ink"});
  expect_same_weights(pipe.weights(), base);

  pipe.set_lora_device("ink", at::kCPU);
  pipe.set_lora_device({"ink", "neon"}, at::kCPU);
  pipe.delete_adapters("ink");
  EXPECT_EQ(pipe.get_list_adapters().at("unet"), Names{"neon"});
  pipe.delete_adapters({"neon"});
  EXPECT_TRUE(pipe.get_list_adapters().empty());

  pipe.create_adapter("unet", {.adapter_name = "one", .target_modules = "to_q"});
  pipe.create_adapter("unet", {.adapter_name = "two", .target_modules = {"to_q", "to_k"}});
  EXPECT_EQ(pipe.get_lora_layers("unet", "two").size(), 2 * pipe.get_lora_layers("unet", "one").size());
}

// ---- Weights --------------------------------------------------------------------------------------------------------

TEST(AsWritten, SetAdapters) {
  Loaded pipe, wanted;
  const Names names{"ink", "neon"};
  const LoraScale w = 0.7, dict{{"unet", 0.5}};
  using Call = std::function<void(TinyPipeline&)>;
  // What is set, in full, and the ways to write it.
  const std::vector<std::tuple<Names, Weights, std::vector<Call>>> table = {
      {{"ink"},
       {1.0},
       {[](auto& p) { p.set_adapters("ink"); }, [](auto& p) { p.set_adapters({"ink"}); },
        [](auto& p) {
          p.set_adapters({{"ink", 1}});
        },
        [](auto& p) { p.set_adapters("ink", {}); }}},
      {{"ink"},
       {0.7},
       {[](auto& p) { p.set_adapters("ink", 0.7); }, [](auto& p) { p.set_adapters({"ink"}, 0.7); },
        [](auto& p) { p.set_adapters({"ink"}, {0.7}); },
        [](auto& p) {
          p.set_adapters({{"ink", 0.7}});
        },
        [&](auto& p) { p.set_adapters({"ink"}, {w}); }, [&](auto& p) { p.set_adapters("ink", w); },
        [&](auto& p) {
          p.set_adapters({{"ink", w}});
        }}},
      {{"ink", "neon"},
       {0.7, 0.4},
       {[](auto& p) {
          p.set_adapters({"ink", "neon"}, {0.7, 0.4});
        },
        [](auto& p) {
          p.set_adapters({{"ink", 0.7}, {"neon", 0.4}});
        },
        [&](auto& p) {
          p.set_adapters(names, Weights{w, 0.4});
        },
        [&](auto& p) {
          p.set_adapters(names, {w, 0.4});
        },
        [&](auto& p) {
          p.set_adapters({{names[0], w}, {names[1], 0.4}});
        },
        [&](auto& p) {
          p.set_adapters(names, std::vector<double>{0.7, 0.4});
        }}},
      {{"ink", "neon"},
       {1.0, 1.0},
       {[](auto& p) {
          p.set_adapters({"ink", "neon"});
        },
        [&](auto& p) { p.set_adapters(names); }, [&](auto& p) { p.set_adapters(names, 1); }}},
      {{"ink"},
       {LoraScale::parse(R"({"unet": 0.5})")},
       {[](auto& p) {
          p.set_adapters({"ink"}, {{"unet", 0.5}});
        },
        [](auto& p) {
          p.set_adapters("ink", {{"unet", 0.5}});
        },
        [&](auto& p) { p.set_adapters("ink", dict); }, [&](auto& p) { p.set_adapters({"ink"}, {dict}); },
        [](auto& p) {
          p.set_adapters({{"ink", {{"unet", 0.5}}}});
        },
        [](auto& p) {
          p.set_adapters({"ink"}, {LoraScale{{"unet", 0.5}}});
        }}},
      {{"ink", "neon"},
       {LoraScale::parse(R"({"unet": 0.5, "text_encoder": 0.2})"),
        LoraScale::parse(R"({"unet": 0.5, "text_encoder": 0.2})")},
       {[](auto& p) {
         p.set_adapters({"ink", "neon"}, {{"unet", 0.5}, {"text_encoder", 0.2}});
       }}},
      {{"ink", "neon"},
       {LoraScale::parse(R"({"unet": {"down": 0.5, "up": 0.25}, "text_encoder": 0.2})"), 0.4},
       {[](auto& p) {
          p.set_adapters({"ink", "neon"}, {{{"unet", {{"down", 0.5}, {"up", 0.25}}}, {"text_encoder", 0.2}}, 0.4});
        },
        [](auto& p) {
          p.set_adapters({{"ink", {{"unet", {{"down", 0.5}, {"up", 0.25}}}, {"text_encoder", 0.2}}}, {"neon", 0.4}});
        }}},
      {{}, {}, {[](auto& p) { p.set_adapters({}); }, [](auto& p) { p.set_adapters(Names{}); }}},
  };
  for (const auto& [active, weights, calls] : table) {
    wanted.set_adapters(active, weights);
    const auto outputs = run(wanted);
    for (size_t i = 0; i < calls.size(); ++i) {
      SCOPED_TRACE(testing::PrintToString(active) + ", call " + std::to_string(i));
      pipe.set_adapters(Names{"neon"}, Weights{0.1});
      calls[i](pipe);
      EXPECT_EQ(pipe.get_active_adapters(), active);
      expect_same(run(pipe), outputs);
    }
  }
  auto remarks = pipe.set_adapters({{"ink", {{"vae", 0.5}}}, {"neon", 1}});
  EXPECT_THAT(remarks, ElementsAre(HasSubstr("vae")));
  EXPECT_THAT(error_of(ErrorKind::usage, [&] { pipe.set_adapters({"ink"}, {0.1, 0.2}); }), HasSubstr("2 weights"));
  EXPECT_THAT(error_of(ErrorKind::not_found, [&] { pipe.set_adapters({{"inc", 0.7}}); }), HasSubstr("\"inc\""));
}

TEST(AsWritten, MixedLayersTakeTheSameForms) {
  Loaded pipe;
  auto same = [](const StateDict& a, const StateDict& b) {
    ASSERT_EQ(a.size(), b.size());
    for (const auto& [key, tensor] : a) EXPECT_TRUE(same_bits(tensor, b.at(key))) << key;
  };
  const auto wanted = pipe.get_lora_layers("text_encoder", Names{"ink", "neon"}, Weights{0.5, 0.5});
  same(pipe.get_lora_layers("text_encoder", {"ink", "neon"}, {0.5, 0.5}), wanted);
  same(pipe.get_lora_layers("text_encoder", {"ink", "neon"}, 0.5), wanted);
  same(pipe.get_lora_layers("text_encoder", {"ink", "neon"}, {{"text_encoder", 0.5}}), wanted);
  same(pipe.get_lora_layers("text_encoder", "ink", 0.5), pipe.get_lora_layers("text_encoder", {"ink"}, {0.5}));
  error_of(ErrorKind::usage, [&] { pipe.get_lora_layers("text_encoder", {"ink", "neon", "ink"}, {0.5, 0.5}); });
}

TEST(AsWritten, WeightsAreThePythonDicts) {
  const std::vector<double> numbers{0.1, 0.5, 1.0};
  const LoraScale inner = 0.25;
  const std::string name = "unet";
  const std::vector<std::pair<LoraScale, const char*>> table = {
      {0.8, "0.8"},
      {1, "1.0"},
      {{}, "1.0"},
      {{0.5}, "0.5"},
      {{{"unet", 0.8}}, "{unet: 0.8}"},
      {{{name, inner}}, "{unet: 0.25}"},
      {{{"unet", {0.8}}}, "{unet: 0.8}"},
      {{{"unet", 0.8}, {"text_encoder", 0.3}}, "{unet: 0.8, text_encoder: 0.3}"},
      {{{"unet", {{"down", 0.5}, {"mid", 1.0}, {"up", {{"block_0", 0.2}, {"block_1", {0.1, 0.5, 1.0}}}}}}},
       "{unet: {down: 0.5, mid: 1.0, up: {block_0: 0.2, block_1: [0.1, 0.5, 1.0]}}}"},
      {{{"unet", {{"up", {{"block_1", {0.1, 0.5, 1.0}}}}}}}, "{unet: {up: {block_1: [0.1, 0.5, 1.0]}}}"},
      {{{"unet", {{"up", {{"block_1", {0.1, 0.5}}}}}}}, "{unet: {up: {block_1: [0.1, 0.5]}}}"},
      {{{"unet", {{"up", {{"block_0", {1, 0}}, {"block_1", {0, 1}}}}}}},
       "{unet: {up: {block_0: [1.0, 0.0], "
       "block_1: [0.0, 1.0]}}}"},
      {{{"unet", {{"up", {0.1, 0.5}}, {"down", {0.5, 1}}}}}, "{unet: {up: [0.1, 0.5], down: [0.5, 1.0]}}"},
      {{{"unet", {{"up", {{"block_1", std::vector{0.1, 0.5, 1.0}}}}}}}, "{unet: {up: {block_1: [0.1, 0.5, 1.0]}}}"},
      {{{"unet", {{"up", {{"block_1", numbers}}}}}}, "{unet: {up: {block_1: [0.1, 0.5, 1.0]}}}"},
      {{{"text_encoder", {{"layer_0", 0.0}, {"layers_4-11", 0.5}}}},
       "{text_encoder: {layer_0: 0.0, layers_4-11: 0.5}}"},
      {{{"unet", {{"down", 0.5}}}, {"text_encoder", {{"layer_0", 0.0}}}},
       "{unet: {down: 0.5}, text_encoder: {layer_0: 0.0}}"},
  };
  for (const auto& [scale, text] : table) {
    EXPECT_EQ(written(scale), text);
    const LoraScale copy{scale};
    EXPECT_EQ(written(copy), text);
  }
  LoraScale s = {{"unet", {{"up", {{"block_1", {0.1, 0.5, 1.0}}}}}}};
  EXPECT_EQ(written(s), "{unet: {up: {block_1: [0.1, 0.5, 1.0]}}}");
}

TEST(AsWritten, WeightsOfSeveralAdapters) {
  EXPECT_THAT(written({}, 2), ElementsAre("1.0", "1.0"));
  EXPECT_THAT(written(0.7, 2), ElementsAre("0.7", "0.7"));
  EXPECT_THAT(written({0.7}, 2), ElementsAre("0.7", "0.7"));
  EXPECT_THAT(written({0.7, 0.4}, 2), ElementsAre("0.7", "0.4"));
  EXPECT_THAT(written({{"unet", 0.5}}, 2), ElementsAre("{unet: 0.5}", "{unet: 0.5}"));
  EXPECT_THAT(written({{"unet", 0.5}, {"text_encoder", 0.3}}, 1), ElementsAre("{unet: 0.5, text_encoder: 0.3}"));
  EXPECT_THAT(written({{{"unet", 0.5}}, 0.4}, 2), ElementsAre("{unet: 0.5}", "0.4"));
  EXPECT_THAT(written({0.4, {{"unet", 0.5}}}, 2), ElementsAre("0.4", "{unet: 0.5}"));
  EXPECT_THAT(written({{{"unet", 0.5}}, {{"unet", 0.1}, {"text_encoder", 0.3}}}, 2),
              ElementsAre("{unet: 0.5}", "{unet: 0.1, text_encoder: 0.3}"));
  EXPECT_THAT(written({{{"unet", {{"up", {0.1, 0.5}}}}}}, 1), ElementsAre("{unet: {up: [0.1, 0.5]}}"));
  EXPECT_THAT(written(LoraScale::Dict{{"unet", 0.5}}, 1), ElementsAre("{unet: 0.5}"));
  EXPECT_THAT(written(Weights{}, 1), ElementsAre("1.0"));
  EXPECT_THAT(written(Weights{0.3}, 0), IsEmpty());
  error_of(ErrorKind::usage, [] { AdapterWeights({0.1, 0.2}).of(3, "here"); });
}

TEST(AsWritten, AListReachesTheLayersOfItsBlock) {
  auto tensors = everywhere();
  TinyPipeline pipe, hand;
  pipe.load_lora_weights(tensors, {.adapter_name = "ink"});
  LoraScale s = {{"unet", {{"down", 0.0}, {"mid", 0.0}, {"up", {{"block_0", 0}, {"block_1", {0.25, 0.5}}}}}}};
  pipe.set_adapters("ink", s);
  hand.load_lora_weights(scaled_by_hand(tensors, [](const std::string& path) {
    auto in = [&](const char* block) { return path.starts_with(std::string("unet.") + block); };
    if (in("up_blocks.1.attentions.1.") || in("up_blocks.1.resnets.1.")) return 0.5;
    if (in("up_blocks.1.")) return 0.25;
    return in("up_blocks.") || in("down_blocks.") || in("mid_block.") ? 0.0 : 1.0;
  }));
  expect_close(pipe.run("unet"), hand.run("unet"), 1e-5);
}

// ---- Sources --------------------------------------------------------------------------------------------------------

TEST(AsWritten, ATextIsAPathWhereItLooksLikeOne) {
  TemporaryFolder folder;
  fs::create_directories(folder / "loras");
  fs::create_directories(folder / "owner-here/name-here");
  const auto back = fs::current_path();
  fs::current_path(folder.path());
  for (const char* text : {"owner/name", "owner/name-v1.5", "some_one/x"}) {
    EXPECT_TRUE(LoraSource(text).is_repository()) << text;
    EXPECT_TRUE(LoraSource(std::string(text)).is_repository()) << text;
    EXPECT_TRUE(LoraSource(std::string_view(text)).is_repository()) << text;
    EXPECT_FALSE(LoraSource::file(text).is_repository()) << text;
  }
  for (const char* text : {"/owner/name", "./name", "../name", "~/name", "owner\\name", "a/b/c",
                           "owner/name.safetensors", "owner/name.bin", "owner/name.pt", "owner/name.ckpt",
                           "loras/mistyped", "owner-here/name-here", "owner-here/other", "name"})
    EXPECT_FALSE(LoraSource(text).is_repository()) << text;
  EXPECT_TRUE(LoraSource::repository("owner-here/name-here").is_repository());
  EXPECT_TRUE(LoraSource::repository("loras/mistyped").is_repository());
  EXPECT_FALSE(LoraSource(StateDict()).is_repository());
  TinyPipeline pipe;
  auto message = error_of(ErrorKind::not_found, [&] { pipe.load_lora_weights("loras/mistyped"); });
  EXPECT_THAT(message, HasSubstr("loras/mistyped: there is no such file or folder; the Hub was not asked, because the "
                                 "folder \"loras\" is here; for the repository, use "
                                 "LoraSource::repository(\"loras/mistyped\")"));
  message = error_of(ErrorKind::not_found, [&] { pipe.load_lora_weights(LoraSource::file("owner/name")); });
  EXPECT_THAT(message, HasSubstr("owner/name: there is no such file or folder"));
  fs::current_path(back);
  EXPECT_THAT(error_of(ErrorKind::usage, [] { LoraSource::repository("a/b/c"); }), HasSubstr("\"owner/name\""));
}

TEST(AsWritten, AFileIsTakenAsAFile) {
  TinyPipeline pipe, wanted;
  wanted.load_lora_weights(kKohya);
  pipe.load_lora_weights(LoraSource::file(kKohya), {.adapter_name = "ink"});
  expect_same(run(pipe), run(wanted));
}

// ---- Fusing ---------------------------------------------------------------------------------------------------------

TEST(AsWritten, UnfuseLeavesWhatItIsToldToLeave) {
  Loaded text_only, unet_only;
  const auto base = text_only.weights();
  text_only.fuse_lora({.components = "text_encoder", .adapter_names = {"ink", "neon"}});
  unet_only.fuse_lora({.components = "unet", .adapter_names = {"ink", "neon"}});
  Loaded one, two;
  for (auto* fused : {&one, &two}) fused->fuse_lora({.adapter_names = {"ink", "neon"}});
  one.unfuse_lora({.unfuse_text_encoder = false});
  expect_same_weights(one.weights(), text_only.weights());
  EXPECT_EQ(one.num_fused_loras(), 2);
  one.unfuse_lora({.unfuse_unet = true, .unfuse_text_encoder = true});
  expect_same_weights(one.weights(), base);
  two.unfuse_lora({.unfuse_unet = false});
  expect_same_weights(two.weights(), unet_only.weights());
  two.unfuse_lora({.components = "unet", .unfuse_unet = false});
  expect_same_weights(two.weights(), unet_only.weights());
  two.unfuse_lora({.unfuse_unet = false, .unfuse_text_encoder = false});
  expect_same_weights(two.weights(), unet_only.weights());
  two.unfuse_lora({.components = {"unet", "text_encoder"}});
  expect_same_weights(two.weights(), base);
}

// ---- Options --------------------------------------------------------------------------------------------------------

TEST(AsWritten, OptionsInTheOrderOfDiffusersSignatures) {
  const std::vector<LoadLoraOptions> loads = {{.adapter_name = "ink", .hotswap = false, .low_cpu_mem_usage = true},
                                              {.adapter_name = "ink",
                                               .hub = {.local_files_only = true},
                                               .subfolder = "",
                                               .weight_name = "",
                                               .use_safetensors = true,
                                               .strict = true}};
  for (const auto& options : loads) {
    TinyPipeline pipe;
    EXPECT_EQ(pipe.load_lora_weights(kKohya, options).adapter_name, "ink");
  }
  TinyPipeline pipe;
  EXPECT_FALSE(pipe.lora_state_dict(kKohya, {.hub = {}, .subfolder = "", .weight_name = "", .use_safetensors = true})
                   .state_dict.empty());
  pipe.load_lora_weights(kKohya, {.adapter_name = "ink"});
  pipe.fuse_lora({.components = {"unet"}, .lora_scale = 0.5, .safe_fusing = true, .adapter_names = {"ink"}});
  pipe.unfuse_lora(
      {.components = {"unet"}, .unfuse_unet = true, .unfuse_text_encoder = true, .adapter_names = {"ink"}});
  auto lora = pipe.lora_state_dict(kKohya);
  pipe.load_lora_into_unet(lora.state_dict, lora.network_alphas, pipe.unet,
                           {.adapter_name = "parts", .low_cpu_mem_usage = true, .hotswap = false, .metadata = ""});
  pipe.load_lora_into_text_encoder(lora.state_dict, lora.network_alphas, pipe.text_encoder,
                                   {.prefix = "text_encoder",
                                    .lora_scale = 0.5,
                                    .adapter_name = "parts",
                                    .low_cpu_mem_usage = true,
                                    .hotswap = false,
                                    .metadata = ""});
  EXPECT_EQ(pipe.get_list_adapters().at("text_encoder"), (Names{"ink", "parts"}));
  TemporaryFolder folder;
  bool called = false;
  Mixin::save_lora_weights(folder.path(), pipe.get_lora_layers("unet", "ink"), {},
                           {.is_main_process = true,
                            .weight_name = "ink.safetensors",
                            .save_function =
                                [&](const StateDict&, const fs::path& file) {
                                  called = true;
                                  EXPECT_EQ(file.filename(), "ink.safetensors");
                                },
                            .safe_serialization = true,
                            .unet_lora_adapter_metadata = "",
                            .text_encoder_lora_adapter_metadata = ""});
  EXPECT_TRUE(called);
}

// ---- Saving ---------------------------------------------------------------------------------------------------------

TEST(AsWritten, LayersAreSavedByComponent) {
  Loaded pipe;
  pipe.set_adapters("ink");
  const auto wanted = run(pipe);
  auto unet = pipe.get_lora_layers("unet", "ink"), text = pipe.get_lora_layers("text_encoder", "ink");
  TemporaryFolder folder;
  const SaveLoraOptions named{.weight_name = "ink.safetensors"};
  Mixin::save_lora_weights(folder / "static", {{"unet", unet}, {"text_encoder", text}}, named);
  pipe.save_lora_weights(folder / "pipe", {{"unet", unet}, {"text_encoder", text}}, named);
  static_cast<const LoraBaseMixin&>(pipe).save_lora_weights(folder / "base", {{"unet", unet}, {"text_encoder", text}},
                                                            named);
  Mixin::save_lora_weights(folder / "in order", unet, text, named);
  for (const char* name : {"static", "pipe", "base", "in order"}) {
    SCOPED_TRACE(name);
    TinyPipeline again;
    again.load_lora_weights(folder / name / "ink.safetensors");
    expect_same(run(again), wanted);
  }
  pipe.save_lora_weights(folder / "one", {{"unet", unet}});
  TinyPipeline again;
  EXPECT_EQ(again.load_lora_weights(folder / "one").components.size(), 1u);
}

TEST(AsWritten, UnknownComponentsAreRefusedByName) {
  Loaded pipe;
  const auto layers = pipe.get_lora_layers("unet", "ink");
  TemporaryFolder folder;
  auto refused = [&](auto save) {
    auto message = error_of(ErrorKind::usage, save);
    EXPECT_FALSE(fs::exists(folder / "out"));
    return message;
  };
  EXPECT_THAT(refused([&] {
                Mixin::save_lora_weights(folder / "out", {{"text_encoder_2", layers}});
              }),
              HasSubstr("does not have the component \"text_encoder_2\"; it has: unet, text_encoder"));
  const LoraBaseMixin& base = pipe;
  EXPECT_THAT(refused([&] {
                base.save_lora_weights(folder / "out", {{"unet", layers}, {"vae", layers}});
              }),
              HasSubstr("does not have the component \"vae\"; it has: unet, text_encoder"));
  EXPECT_THAT(refused([&] {
                StableDiffusionXLLoraLoaderMixin::save_lora_weights(folder / "out", {{"transformer", layers}});
              }),
              HasSubstr("\"transformer\"; it has: unet, text_encoder, text_encoder_2"));
  EXPECT_THAT(refused([&] {
                SD3LoraLoaderMixin::save_lora_weights(folder / "out", {{"unet", layers}});
              }),
              HasSubstr("\"unet\"; it has: transformer, text_encoder, text_encoder_2, text_encoder_3"));
  EXPECT_THAT(refused([&] {
                AmusedLoraLoaderMixin::save_lora_weights(folder / "out", {{"unet", layers}});
              }),
              HasSubstr("\"unet\"; it has: transformer, text_encoder"));
  EXPECT_THAT(refused([&] { Mixin::save_lora_weights(folder / "out", LoraLayersByComponent{}); }),
              HasSubstr("no layers were given"));
}

TEST(AsWritten, TheThirdTextEncoderHasMetadataToo) {
  const StateDict layers{{"a.lora_A.weight", at::zeros({2, 4})}, {"a.lora_B.weight", at::zeros({4, 2})}};
  TemporaryFolder folder;
  SD3LoraLoaderMixin::save_lora_weights(
      folder.path(), {{"transformer", layers}, {"text_encoder_3", layers}},
      {.weight_name = "ink.safetensors", .text_encoder_3_lora_adapter_metadata = R"({"r": 2, "lora_alpha": 8})"});
  auto metadata = adapter_metadata(folder / "ink.safetensors");
  EXPECT_EQ(metadata["text_encoder_3.lora_alpha"], 8);
  EXPECT_TRUE(load_state_dict(folder / "ink.safetensors").contains("text_encoder_3.a.lora_A.weight"));
}

}  // namespace lora
