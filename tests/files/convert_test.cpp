#include <gmock/gmock.h>

#include <nlohmann/json.hpp>
#include <set>

#include "files/change.h"
#include "files/lora_files.h"
#include "io/json_file.h"

namespace lora {

namespace {

using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

const std::vector<std::string> kTargets = {"diffusers", "peft", "kohya", "comfy"};

std::filesystem::path file_for(const TemporaryFolder& folder, const std::string& name, const std::string& target) {
  return folder / (name + (target == "peft" ? "" : ".safetensors"));
}

// The tensors of a layer whose forms differ between targets in one form.
LayerTensors plain(const LoraLayer& layer) {
  LayerTensors tensors;
  for (const auto& [suffix, tensor] : layer.tensors) {
    bool magnitude = suffix == "lora_magnitude_vector" || suffix == "dora_scale";
    tensors[magnitude ? "magnitude" : suffix] = tensor;
  }
  return tensors;
}

bool same_tensors(const LayerTensors& a, const LayerTensors& b) {
  return a.size() == b.size() && std::all_of(b.begin(), b.end(), [&](auto& entry) {
           auto it = a.find(entry.first);
           return it != a.end() && it->second.scalar_type() == entry.second.scalar_type() &&
                  at::equal(it->second.flatten().to(at::kDouble), entry.second.flatten().to(at::kDouble));
         });
}

// Every layer with the same tensors, bit for bit, at the same scale. Layers that another format holds in one are
// in blocks there, with zeros for those that the file had not: then the changes are the same.
void expect_same_effect(const LoraFile& got, const LoraFile& wanted, const std::string& what) {
  bool joins = wanted.base_model == BaseModel::sd3 || wanted.base_model == BaseModel::flux;
  std::map<std::string, const LoraLayer*> layers;
  for (const auto& layer : got.layers) layers[layer.name()] = &layer;
  for (const auto& layer : wanted.layers) {
    auto name = layer.name();
    ASSERT_TRUE(layers.contains(name)) << what << ": " << name;
    const auto& other = *layers[name];
    layers.erase(name);
    auto x = change_of(other), y = change_of(layer);
    if (same_tensors(plain(other), plain(layer))) {
      EXPECT_NEAR(x.scale, y.scale, 1e-6 * std::abs(y.scale)) << what << ": " << name;  // an alpha is a float32 there
    } else {
      ASSERT_TRUE(joins && !depends_on_base(layer.tensors)) << what << ": " << name << ": other tensors";
      expect_close(dense(x), dense(y), 1e-6);
    }
  }
  for (const auto& [name, layer] : layers) EXPECT_TRUE(joins && norm(change_of(*layer)) == 0) << what << ": " << name;
}

// The files whose layers are the same tensors in every format that can say them: not those of PEFT's folders, whose
// configs lie beside them, of biases and differences of them, and of Tucker cores; those have tests of their own. And
// not kinds that aMUSEd's only formats cannot say, or that no format can say of q and k alone.
std::vector<std::filesystem::path> plain_files() {
  auto files = readable_files();
  std::erase_if(files, [](const std::filesystem::path& file) {
    const std::set<std::string> others = {"bias",           "peft_bias",       "everything",      "full",
                                          "locon_tucker",   "lokr_groups",     "oft_groups",      "diff",
                                          "model_bias_all", "model_lora_only", "bias_compatible", "model_loha",
                                          "model_lokr",     "model_lokr_whole"};
    return others.contains(file.stem()) || std::filesystem::exists(file.parent_path() / "adapter_config.json");
  });
  return files;
}

StateDict sd15_layer(StateDict tensors) {
  StateDict file;
  for (const auto& [suffix, tensor] : tensors)
    file.set("lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k." + suffix, tensor);
  return file;
}

StateDict difference(const Tensor& diff) { return sd15_layer({{"diff", diff}}); }

std::map<std::string, std::string> metadata_of(const std::filesystem::path& file) {
  return load_state_dict(file).metadata;
}

}  // namespace

class ConvertFiles : public testing::TestWithParam<std::filesystem::path> {};

// To each format that can say it, and from there to each other: the same bits at the same strengths.
TEST_P(ConvertFiles, KeepsTheEffect) {
  TemporaryFolder folder(TemporaryFolder::in_memory());
  auto file = GetParam();
  auto source = read_lora(file);
  if (source.base_model ==
      BaseModel::unknown) {  // too few layers for names to tell: as kohya does, the metadata says it
    auto tensors = load_state_dict(file);
    tensors.metadata["ss_base_model_version"] = file.string().find("xl") == std::string::npos ? "sd_v1" : "sdxl_";
    file = folder / "source.safetensors";
    save_safetensors(tensors, file);
    source = read_lora(file);
  }
  size_t said = 0;
  for (const auto& first : kTargets) {
    auto a = file_for(folder, first, first);
    try {
      convert_lora(file, a, {.to = first});
    } catch (const Error& error) {
      ASSERT_EQ(error.kind(), ErrorKind::unsupported) << error.what();
      EXPECT_FALSE(std::filesystem::exists(a));
      continue;
    }
    ++said;
    expect_same_effect(read_lora(a), source, first);
    for (const auto& second : kTargets) {
      if (second == first) continue;
      auto b = file_for(folder, first + "-" + second, second);
      try {
        convert_lora(a, b, {.to = second});
      } catch (const Error& error) {
        ASSERT_EQ(error.kind(), ErrorKind::unsupported) << error.what();
        continue;
      }
      expect_same_effect(read_lora(b), source, first + " to " + second);
    }
  }
  EXPECT_GT(said, 0u) << "no format can say it";
}

INSTANTIATE_TEST_SUITE_P(All, ConvertFiles, testing::ValuesIn(plain_files()), [](const auto& test) {
  auto name = test.param.parent_path().filename().string() + "_" + test.param.stem().string();
  std::replace_if(
      name.begin(), name.end(), [](char c) { return !std::isalnum(static_cast<unsigned char>(c)); }, '_');
  return name;
});

TEST(Convert, AlphasGoWhereTheTargetHasThem) {
  TemporaryFolder folder;
  auto source = kohya_sd15();
  auto layer = std::string("lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k");
  source.set(layer + ".alpha", at::scalar_tensor(0.25));
  source.metadata = {{"ss_network_module", "networks.lora"}, {"ss_tag_frequency", "{}"}, {"sshs_model_hash", "0"}};
  save_safetensors(source, folder / "a.safetensors");

  convert_lora(folder / "a.safetensors", folder / "d.safetensors", {.to = "diffusers"});
  auto file = load_state_dict(folder / "d.safetensors");
  EXPECT_EQ(file.metadata.at("format"), "pt");
  EXPECT_EQ(file.metadata.at("ss_tag_frequency"), "{}");
  EXPECT_FALSE(file.metadata.contains("sshs_model_hash"));
  for (const auto& [key, tensor] : file) EXPECT_FALSE(key.ends_with(".alpha")) << key;
  auto fields = nlohmann::json::parse(file.metadata.at("lora_adapter_metadata"));
  EXPECT_EQ(fields["unet.r"], 1);
  EXPECT_EQ(fields["unet.lora_alpha"], 1);
  EXPECT_EQ(fields["unet.alpha_pattern"],
            nlohmann::json({{"^mid_block.attentions.0.transformer_blocks.0.attn2.to_k", 0.25}}));

  auto done = convert_lora(folder / "a.safetensors", folder / "p", {.to = "peft"});
  EXPECT_THAT(done.files, SizeIs(2));
  auto config = read_json(folder / "p/unet/adapter_config.json");
  EXPECT_EQ(config["peft_type"], "LORA");
  EXPECT_EQ(config["r"], 1);
  EXPECT_EQ(config["alpha_pattern"].size(), 1u);

  convert_lora(folder / "d.safetensors", folder / "k.safetensors", {.to = "kohya"});
  EXPECT_EQ(load_state_dict(folder / "k.safetensors").at(layer + ".alpha").item<double>(), 0.25);
}

TEST(Convert, NeedsNoMetadataWhereAlphaIsTheRank) {
  TemporaryFolder folder;
  save_safetensors(kohya_sd15(), folder / "a.safetensors");
  convert_lora(folder / "a.safetensors", folder / "d.safetensors", {.to = "diffusers"});
  EXPECT_FALSE(metadata_of(folder / "d.safetensors").contains("lora_adapter_metadata"));
}

TEST(Convert, KohyasFilesSayWhatItsReadersLookFor) {
  TemporaryFolder folder;
  save_safetensors(kohya_sd15(), folder / "a.safetensors");
  convert_lora(folder / "a.safetensors", folder / "d.safetensors", {.to = "diffusers"});
  convert_lora(folder / "d.safetensors", folder / "k.safetensors", {.to = "kohya"});
  auto metadata = metadata_of(folder / "k.safetensors");
  EXPECT_EQ(metadata["ss_network_module"], "networks.lora");
  EXPECT_EQ(metadata["ss_network_dim"], "1");
  EXPECT_EQ(metadata["ss_network_alpha"], "1");
  EXPECT_EQ(metadata["ss_base_model_version"], "sd_v1");
  EXPECT_EQ(metadata["ss_v2"], "False");
  EXPECT_FALSE(metadata.contains("format"));
  auto hashes = hash_file(folder / "k.safetensors");
  EXPECT_EQ(metadata["sshs_model_hash"], hashes.data);
  EXPECT_EQ(hashes.claims.at("sshs_model_hash"), "matches");
}

// A base model that the metadata names wrongly is not passed on.
TEST(Convert, TheMetadatasBaseModelIsCorrected) {
  TemporaryFolder folder;
  StateDict sdxl;
  std::string layer = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k.";
  sdxl.set(layer + "lora_down.weight", at::ones({1, 2048}));
  sdxl.set(layer + "lora_up.weight", at::ones({640, 1}));
  sdxl.metadata = {{"ss_base_model_version", "sd_v1-5"},
                   {"ss_v2", "True"},
                   {"modelspec.architecture", "stable-diffusion-v1/lora"},
                   {"ss_tag_frequency", "{}"}};
  save_safetensors(sdxl, folder / "a.safetensors");
  for (const char* target : {"kohya", "comfy", "diffusers"}) {
    auto done = convert_lora(folder / "a.safetensors", folder / "b.safetensors", {.to = target});
    auto metadata = metadata_of(folder / "b.safetensors");
    EXPECT_EQ(metadata["ss_base_model_version"], "sdxl_base_v1-0") << target;
    EXPECT_EQ(metadata["modelspec.architecture"], "stable-diffusion-xl-v1-base/lora") << target;
    EXPECT_EQ(metadata["ss_v2"], "False") << target;
    EXPECT_EQ(metadata["ss_tag_frequency"], "{}") << target;
    EXPECT_THAT(done.notes, testing::Contains(HasSubstr("ss_base_model_version was sd_v1-5"))) << target;
  }
  // One that names the same base model in other words stays.
  sdxl.metadata = {{"ss_base_model_version", "sdxl_1.0"}};
  save_safetensors(sdxl, folder / "a.safetensors");
  EXPECT_THAT(convert_lora(folder / "a.safetensors", folder / "b.safetensors", {.to = "kohya"}).notes, IsEmpty());
  EXPECT_EQ(metadata_of(folder / "b.safetensors")["ss_base_model_version"], "sdxl_1.0");
}

// What is for Kolors is not made one for SDXL, unless the caller says so.
TEST(Convert, AModelThatLooksLikeAnotherIsNotRenamed) {
  TemporaryFolder folder;
  StateDict file;
  std::string layer = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k.";
  file.set(layer + "lora_down.weight", at::ones({1, 2048}));
  file.set(layer + "lora_up.weight", at::ones({640, 1}));
  file.metadata = {{"ss_base_model_version", "kolors"}};
  ConvertOptions options{.to = "diffusers"};
  EXPECT_THAT(error_of(ErrorKind::unsupported, [&] { convert_lora(file, folder / "a.safetensors", options); }),
              HasSubstr("it is for Kolors"));
  EXPECT_THAT(folder.names(), IsEmpty());
  options.read.base_model = BaseModel::sdxl;
  auto done = convert_lora(file, folder / "a.safetensors", options);
  EXPECT_THAT(done.notes, testing::Contains(HasSubstr("ss_base_model_version was kolors")));
  EXPECT_EQ(metadata_of(folder / "a.safetensors")["ss_base_model_version"], "sdxl_base_v1-0");
}

TEST(Convert, TheSourceMayBeTheTarget) {
  TemporaryFolder folder;
  auto source = kohya_sd15();
  save_safetensors(source, folder / "a.safetensors");
  auto before = read_lora(folder / "a.safetensors");  // keeps the old file mapped
  convert_lora(folder / "a.safetensors", folder / "a.safetensors", {.to = "diffusers"});
  EXPECT_THAT(folder.names(), SizeIs(1));
  expect_same_effect(read_lora(folder / "a.safetensors"), before, "in place");
}

TEST(Convert, WritesOverNothingButAFile) {
  TemporaryFolder folder;
  save_safetensors(kohya_sd15(), folder / "a.safetensors");
  std::filesystem::create_directory(folder / "there");
  error_of(ErrorKind::io, [&] { convert_lora(folder / "a.safetensors", folder / "there", {.to = "kohya"}); });
  error_of(ErrorKind::io, [&] { convert_lora(folder / "a.safetensors", folder / "a.safetensors", {.to = "peft"}); });
  EXPECT_EQ(read_lora(folder / "a.safetensors").dialect, "kohya");
}

TEST(Convert, AnotherDtype) {
  TemporaryFolder folder;
  auto source = kohya_sd15();
  save_safetensors(source, folder / "a.safetensors");
  convert_lora(folder / "a.safetensors", folder / "b.safetensors", {.to = "kohya", .dtype = at::kBFloat16});
  for (const auto& [key, tensor] : load_state_dict(folder / "b.safetensors"))
    EXPECT_TRUE(key.ends_with(".alpha") || same_bits(tensor, source.at(key).to(at::kBFloat16))) << key;
  scale(source, "lora_unet_mid_block_attentions_0_proj_in.lora_up.weight", 1e6);
  scale(source, "lora_unet_mid_block_attentions_0_proj_in.lora_down.weight", 1e6);
  save_safetensors(source, folder / "c.safetensors");
  auto message = error_of(ErrorKind::unsupported, [&] {
    convert_lora(folder / "c.safetensors", folder / "d.safetensors", {.to = "kohya", .dtype = at::kHalf});
  });
  EXPECT_THAT(message, HasSubstr("float16 cannot hold"));
  EXPECT_FALSE(std::filesystem::exists(folder / "d.safetensors"));
}

TEST(Convert, ATuckerCoreGoesIntoTheFirstFactor) {
  TemporaryFolder folder;
  at::manual_seed(3);
  StateDict source;
  std::string key = "lora_unet_mid_block_resnets_0_conv1.";
  auto up = at::randn({10, 3, 1, 1}), core = at::randn({3, 3, 3, 3}), down = at::randn({3, 8, 1, 1});
  for (const auto& [suffix, tensor] : {std::pair("lora_up.weight", up),
                                       {"lora_mid.weight", core},
                                       {"lora_down.weight", down},
                                       {"alpha", at::scalar_tensor(1.5)}})
    source.set(key + suffix, tensor);
  save_safetensors(source, folder / "a.safetensors");
  auto done = convert_lora(folder / "a.safetensors", folder / "b.safetensors", {.to = "diffusers"});
  EXPECT_THAT(done.notes, testing::ElementsAre(HasSubstr("Tucker core")));
  auto layer = read_lora(folder / "b.safetensors").layers.at(0);
  EXPECT_EQ(layer.tensors.at("lora_A.weight").sizes().vec(), (std::vector<int64_t>{3, 8, 3, 3}));
  auto wanted = at::einsum("oa,abxy,bi->oixy", {up.flatten(1), core, down.flatten(1)}).flatten(1) * (1.5 / 3);
  expect_close(dense(change_of(layer)), wanted, 1e-6);
}

TEST(Convert, DoRAsMagnitudesChangeTheirShape) {
  TemporaryFolder folder;
  auto dora = sd15_layer({{"lora_down.weight", at::randn({2, 768})},
                          {"lora_up.weight", at::randn({1280, 2})},
                          {"dora_scale", at::rand({1280, 1})}});
  save_safetensors(dora, folder / "a.safetensors");
  convert_lora(folder / "a.safetensors", folder / "b.safetensors", {.to = "diffusers"});
  auto tensors = read_lora(folder / "b.safetensors").layers.at(0).tensors;
  EXPECT_EQ(tensors.at("lora_magnitude_vector").sizes().vec(), std::vector<int64_t>{1280});
  convert_lora(folder / "b.safetensors", folder / "c.safetensors", {.to = "kohya"});
  EXPECT_TRUE(
      same_bits(load_state_dict(folder / "c.safetensors").at((dora.begin() + 2)->first), (dora.begin() + 2)->second));
  auto by_input = dora;
  by_input.set((dora.begin() + 2)->first, at::rand({1, 768}));
  save_safetensors(by_input, folder / "d.safetensors");
  auto message = error_of(ErrorKind::unsupported, [&] {
    convert_lora(folder / "d.safetensors", folder / "e.safetensors", {.to = "diffusers", .approximate = 4});
  });
  EXPECT_THAT(message, HasSubstr("without the base model"));
}

TEST(Convert, WhatTheTargetCannotSayIsNamedWithTheWaysOut) {
  TemporaryFolder folder;
  auto refused = [&](const StateDict& source, ConvertOptions options) {
    save_safetensors(source, folder / "a.safetensors");
    auto message = error_of(ErrorKind::unsupported,
                            [&] { convert_lora(folder / "a.safetensors", folder / "b.safetensors", options); });
    EXPECT_FALSE(std::filesystem::exists(folder / "b.safetensors"));
    return message;
  };
  EXPECT_THAT(refused(difference(at::randn({1280, 768})), {.to = "diffusers"}),
              AllOf(HasSubstr("full difference (1 layer: unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k)"),
                    HasSubstr("kohya or comfy"), HasSubstr("--approximate --rank N")));
  StateDict norm{{"lora_unet_mid_block_attentions_0_norm.w_norm", at::randn({1280})}};
  EXPECT_THAT(refused(norm, {.to = "diffusers", .approximate = 4}), HasSubstr("not matrices"));
  auto oft = sd15_layer({{"oft_blocks", at::randn({2, 5, 5})}, {"alpha", at::scalar_tensor(0.0)}});
  EXPECT_THAT(refused(oft, {.to = "diffusers", .approximate = 4}), HasSubstr("without the base model"));
}

TEST(Convert, ApproximatesAsTheSingularValuesAllow) {
  TemporaryFolder folder;
  at::manual_seed(2);
  // Singular values 1, 1/2, 1/3, …
  auto U = std::get<0>(at::linalg_qr(at::randn({96, 64}))), V = std::get<0>(at::linalg_qr(at::randn({64, 64})));
  auto values = 1 / at::arange(1, 65).to(at::kFloat);
  save_safetensors(difference(at::mm(U * values, V.t())), folder / "a.safetensors");
  auto done = convert_lora(folder / "a.safetensors", folder / "b.safetensors", {.to = "diffusers", .approximate = 8});
  auto best = (values.slice(0, 8).norm() / values.norm()).item<double>();
  EXPECT_GE(done.largest_error, best * (1 - 1e-5));
  EXPECT_LE(done.largest_error, best * 1.001);
  EXPECT_EQ(done.mean_error, done.largest_error);
  EXPECT_THAT(done.text(), HasSubstr("1 of 1 layer approximated"));
  auto layer = read_lora(folder / "b.safetensors").layers.at(0);
  auto wanted = load_state_dict(folder / "a.safetensors").begin()->second;
  EXPECT_NEAR(((dense(change_of(layer)) - wanted).norm() / wanted.norm()).item<double>(), done.largest_error, 1e-5);

  // What has that rank is met.
  auto low = at::mm(at::randn({96, 8}), at::randn({8, 64}));
  save_safetensors(difference(low), folder / "c.safetensors");
  done = convert_lora(folder / "c.safetensors", folder / "d", {.to = "peft", .approximate = 8});
  EXPECT_LE(done.largest_error, 1e-5);
}

TEST(Convert, PassesOverLayersThatCannotActWithANote) {
  TemporaryFolder folder;
  auto file = kohya_sd15([](auto& path) { return path.starts_with("mid_block"); });
  std::string layer = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_";
  file.set(layer + "k.alpha", at::scalar_tensor(double(INFINITY)));
  file.set(layer + "q.lora_down.weight", at::ones({0, 1280}));
  file.set(layer + "q.lora_up.weight", at::ones({1280, 0}));
  auto done = convert_lora(file, folder / "a.safetensors", {.to = "diffusers"});
  EXPECT_THAT(done.notes, testing::UnorderedElementsAre(HasSubstr("rank 0"), HasSubstr("NaN or infinity")));
  EXPECT_EQ(read_lora(folder / "a.safetensors").layers.size() + 2, read_lora(file).layers.size() + 1);

  StateDict nothing;
  for (const auto& [key, tensor] : file)
    nothing.set(key, key.ends_with("lora_up.weight") ? tensor * std::nan("") : tensor);
  EXPECT_THAT(error_of(ErrorKind::bad_file, [&] { convert_lora(nothing, folder / "b.safetensors", {.to = "kohya"}); }),
              HasSubstr("state dict: all of its layers"));
  EXPECT_FALSE(std::filesystem::exists(folder / "b.safetensors"));
}

TEST(Convert, APartOfAnEffectIsAnErrorOrLeftOut) {
  TemporaryFolder folder;
  auto file = kohya_sd15([](auto& path) { return path.starts_with("mid_block"); });
  file.set("lora_unet_mid_block_attentions_0_proj_in.mystery", at::ones({1}));
  ConvertOptions options{.to = "kohya"};
  EXPECT_THAT(error_of(ErrorKind::bad_key, [&] { convert_lora(file, folder / "a.safetensors", options); }),
              HasSubstr("proj_in.mystery"));
  options.read.partial = PartialLora::allow;
  EXPECT_THAT(convert_lora(file, folder / "a.safetensors", options).notes, testing::Contains(HasSubstr("not whole")));
}

TEST(Convert, OptionsThatGoWithNothing) {
  TemporaryFolder folder;
  save_safetensors(kohya_sd15(), folder / "a.safetensors");
  auto convert = [&](ConvertOptions options) { convert_lora(folder / "a.safetensors", folder / "b", options); };
  error_of(ErrorKind::usage, [&] { convert({.to = "ggml"}); });
  error_of(ErrorKind::usage, [&] { convert({.to = "diffusers", .approximate = 0}); });
  error_of(ErrorKind::usage, [&] { convert({.to = "kohya", .approximate = 8}); });
  auto message = error_of(ErrorKind::unsupported, [&] {
    convert_lora(test_data() / "dialects/diffusers/amused.safetensors", folder / "b", {.to = "kohya"});
  });
  EXPECT_THAT(message, HasSubstr("aMUSEd"));
}

TEST(Convert, TakesTensorsInMemoryAndTellsItsProgress) {
  TemporaryFolder folder;
  auto source = kohya_sd15();
  int calls = 0;
  convert_lora(source, folder / "a.safetensors", {.to = "diffusers", .progress = [&](int, int) { ++calls; }});
  EXPECT_EQ(calls, 2 * 192);
  expect_same_effect(read_lora(folder / "a.safetensors"), read_lora(source), "in memory");
  auto stop = [](int, int) { throw std::out_of_range("mine"); };
  EXPECT_THROW(convert_lora(source, folder / "b.safetensors", {.to = "diffusers", .progress = stop}),
               std::out_of_range);
  EXPECT_THAT(folder.names(), SizeIs(1));
}

}  // namespace lora
