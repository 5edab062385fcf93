// Metadata that changes how a file is read: in every dialect, converted to every format, once and twice. The change of
// each layer is computed here, in float64, from the numbers that the file is made of.
#include <gmock/gmock.h>

#include <cmath>
#include <regex>
#include <set>

#include "files/change.h"
#include "lora/files.h"
#include "support/compare.h"
#include "support/folder.h"

namespace lora {

namespace {

constexpr int64_t kRank = 2;  // of each part
constexpr double kFileAlpha = 1.5;

struct Part {
  const char* name;  // in diffusers' names
  int64_t rows;
};

// A layer of a file, with the layers of the model that it holds.
struct Row {
  const char* stem;
  std::vector<Part> parts;
  int64_t columns;
};

struct Spelling {
  const char* name;
  const char *down, *up, *alpha;  // ends of the keys; "" for no alpha
  std::vector<Row> rows;
  std::set<std::string> components = {};  // that lora_adapter_metadata may speak of; empty for files with alphas
};

const std::vector<Spelling>& spellings() {
  static const std::vector<Row> kSdxl = {{"unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k",
                                          {{"unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k", 8}},
                                          2048},
                                         {"text_encoder_2.text_model.encoder.layers.3.mlp.fc1",
                                          {{"text_encoder_2.text_model.encoder.layers.3.mlp.fc1", 16}},
                                          8}};
  static const std::vector<Part> kQkv = {{"transformer.transformer_blocks.0.attn.to_q", 8},
                                         {"transformer.transformer_blocks.0.attn.to_k", 8},
                                         {"transformer.transformer_blocks.0.attn.to_v", 8}};
  static const std::vector<Part> kLinear1 = {{"transformer.single_transformer_blocks.1.attn.to_q", 8},
                                             {"transformer.single_transformer_blocks.1.attn.to_k", 8},
                                             {"transformer.single_transformer_blocks.1.attn.to_v", 8},
                                             {"transformer.single_transformer_blocks.1.proj_mlp", 32}};
  static const std::vector<Spelling> all = {
      {"kohya_sd1",
       ".lora_down.weight",
       ".lora_up.weight",
       ".alpha",
       {{"lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k",
         {{"unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k", 8}},
         768},
        {"lora_te_text_model_encoder_layers_0_self_attn_q_proj",
         {{"text_encoder.text_model.encoder.layers.0.self_attn.q_proj", 8}},
         8}}},
      {"kohya_sdxl",
       ".lora_down.weight",
       ".lora_up.weight",
       ".alpha",
       {{"lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k", kSdxl[0].parts, 2048},
        {"lora_te2_text_model_encoder_layers_3_mlp_fc1", kSdxl[1].parts, 8}}},
      {"kohya_sd3",
       ".lora_down.weight",
       ".lora_up.weight",
       ".alpha",
       {{"lora_unet_joint_blocks_0_x_block_attn_qkv", kQkv, 8},
        {"lora_unet_joint_blocks_0_x_block_mlp_fc1", {{"transformer.transformer_blocks.0.ff.net.0.proj", 16}}, 8}}},
      {"kohya_flux",
       ".lora_down.weight",
       ".lora_up.weight",
       ".alpha",
       {{"lora_unet_double_blocks_0_img_attn_qkv", kQkv, 8},
        {"lora_unet_single_blocks_1_linear1", kLinear1, 8},
        {"lora_unet_single_blocks_1_linear2", {{"transformer.single_transformer_blocks.1.proj_out", 8}}, 40}}},
      {"comfy_flux",
       ".lora_down.weight",
       ".lora_up.weight",
       ".alpha",
       {{"diffusion_model.double_blocks.0.img_attn.qkv", kQkv, 8},
        {"diffusion_model.single_blocks.1.linear1", kLinear1, 8}}},
      {"bfl",
       ".lora_A.weight",
       ".lora_B.weight",
       "",
       {{"double_blocks.0.img_attn.qkv", kQkv, 8}, {"single_blocks.1.linear1", kLinear1, 8}}},
      {"xlabs", ".down.weight", ".up.weight", "", {{"double_blocks.0.processor.qkv_lora1", kQkv, 8}}},
      {"omi",
       ".lora_down.weight",
       ".lora_up.weight",
       ".alpha",
       {{"transformer.joint_blocks.0.x_block.attn.qkv.1", {kQkv[1]}, 8}}},
      {"onetrainer",
       ".lora_down.weight",
       ".lora_up.weight",
       ".alpha",
       {{"lora_transformer_single_transformer_blocks_1_attn_to_q", {kLinear1[0]}, 8}}},
      {"lycoris",
       ".lora_down.weight",
       ".lora_up.weight",
       ".alpha",
       {{"lycoris_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k", kSdxl[0].parts, 2048}}},
      {"peft",
       ".lora_A.weight",
       ".lora_B.weight",
       "",
       {{"unet.base_model.model.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k", kSdxl[0].parts, 2048}},
       {"unet"}},
      {"diffusers", ".lora_A.weight", ".lora_B.weight", "", kSdxl, {"unet", "text_encoder_2"}},
      {"diffusers_2023", ".lora.down.weight", ".lora.up.weight", "", {kSdxl[0]}, {"unet"}},
      {"attention_processors",
       ".down.weight",
       ".up.weight",
       "",
       {{"down_blocks.1.attentions.0.transformer_blocks.0.attn2.processor.to_k_lora", kSdxl[0].parts, 2048}},
       {"unet"}},
      {"bare",
       ".lora_A.weight",
       ".lora_B.weight",
       "",
       {{"down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k", kSdxl[0].parts, 2048}},
       {"unet"}},
  };
  return all;
}

struct Meta {
  const char* name;
  std::map<std::string, std::string> entries;
  bool splits = false;              // each part has alpha over its own rank
  std::string adapter_fields = {};  // of each component, in lora_adapter_metadata
  double scale = 1;                 // of those fields
};

const std::vector<Meta>& metas() {
  static const std::string kOther(64, '0');
  static const std::vector<Meta> all = {
      {"none", {}},
      {"split_qkv", {{"ss_network_args", R"({"train_blocks": "all", "split_qkv": "True"})"}}, true},
      {"split_qkv_true", {{"ss_network_args", R"({"split_qkv": true})"}}, true},
      {"not_split", {{"ss_network_args", R"({"split_qkv": "False"})"}}},
      {"rank_and_alpha", {}, false, R"("r": 2, "lora_alpha": 3)", 1.5},
      {"pattern", {}, false, R"("r": 2, "lora_alpha": 2, "alpha_pattern": {"mlp.fc1|attn2.to_k": 5})", 2.5},
      {"rslora", {}, false, R"("r": 2, "lora_alpha": 3, "use_rslora": true)", 3 / std::sqrt(2.0)},
      {"onetrainer", {{"ot_branch", "master"}, {"ot_revision", "0"}}},
      {"stale",
       {{"ss_network_dim", "64"},
        {"ss_network_alpha", "7"},
        {"ss_network_module", "lycoris.kohya"},
        {"sshs_model_hash", kOther},
        {"modelspec.hash_sha256", "0x" + kOther},
        {"format", "tf"}}},
  };
  return all;
}

using Changes = std::map<std::string, Tensor>;  // by layer, in float64

// The file, and what it changes.
std::pair<StateDict, Changes> made(const Spelling& spelling, const Meta& meta) {
  StateDict file;
  Changes changes;
  bool has_alpha = *spelling.alpha != '\0';
  for (const auto& row : spelling.rows) {
    auto n = int64_t(row.parts.size());
    auto down = at::randn({n * kRank, row.columns}) * 0.1;
    std::vector<Tensor> ups;
    auto scale = has_alpha ? kFileAlpha / double(meta.splits ? kRank : kRank * n) : meta.scale;
    for (const auto& [name, rows] : row.parts) {
      auto part = down.slice(0, int64_t(ups.size()) * kRank, int64_t(ups.size() + 1) * kRank);
      ups.push_back(at::randn({rows, kRank}) * 0.1);
      changes[name] = at::mm(ups.back().to(at::kDouble), part.to(at::kDouble)) * scale;
    }
    file.set(std::string(row.stem) + spelling.down, down);
    file.set(std::string(row.stem) + spelling.up, at::block_diag(ups));
    if (has_alpha) file.set(std::string(row.stem) + spelling.alpha, at::scalar_tensor(kFileAlpha));
  }
  file.metadata = meta.entries;
  std::string fields;
  if (!meta.adapter_fields.empty())
    for (const auto& component : spelling.components)
      fields += (fields.empty() ? "" : ", ") +
                std::regex_replace(meta.adapter_fields, std::regex("\"(r|lora_alpha|alpha_pattern|use_rslora)\""),
                                   "\"" + component + ".$1\"");
  if (!fields.empty()) file.metadata["lora_adapter_metadata"] = "{" + fields + "}";
  return {file, changes};
}

void expect_changes(const LoraFile& file, const Changes& wanted) {
  auto rest = wanted;
  for (const auto& layer : file.layers) {
    auto A = get(layer.tensors, "lora_A.weight").to(at::kDouble),
         B = get(layer.tensors, "lora_B.weight").to(at::kDouble);
    auto change = at::mm(B, A) * strength_of(layer, A.size(0)).scale;
    auto found = rest.find(layer.name());
    if (found == rest.end()) {  // rows that the file does not have, of a layer that holds several
      EXPECT_EQ(change.abs().max().item<double>(), 0) << layer.name();
      continue;
    }
    auto apart = (change - found->second).norm().item<double>() / found->second.norm().item<double>();
    EXPECT_LT(apart, 1e-6) << layer.name();
    rest.erase(found);
  }
  for (const auto& [name, change] : rest) ADD_FAILURE() << name << " is missing";
}

// False where the format cannot hold the file.
bool converts(const std::filesystem::path& from, const std::filesystem::path& to, const std::string& target) {
  try {
    convert_lora(from, to, {.to = target});
    return true;
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::unsupported) << error.what();
    return false;
  }
}

const std::vector<std::string> kTargets = {"kohya", "comfy", "diffusers", "peft"};

std::filesystem::path output(const TemporaryFolder& folder, const std::string& name, const std::string& target) {
  return folder / (name + (target == "peft" ? "" : ".safetensors"));
}

}  // namespace

class ReadingMetadata : public testing::TestWithParam<std::tuple<size_t, size_t>> {};

TEST_P(ReadingMetadata, DoesNotOutliveTheLayoutThatItIsAbout) {
  at::manual_seed(3);
  const auto& spelling = spellings()[std::get<0>(GetParam())];
  const auto& meta = metas()[std::get<1>(GetParam())];
  if (!meta.adapter_fields.empty() && spelling.components.empty()) return;  // the file's own alphas count
  auto [tensors, changes] = made(spelling, meta);
  TemporaryFolder folder(TemporaryFolder::in_memory());
  save_safetensors(tensors, folder / "source.safetensors");
  expect_changes(read_lora(folder / "source.safetensors"), changes);
  size_t written = 0;
  for (const auto& first : kTargets) {
    SCOPED_TRACE(first);
    auto once = output(folder, first, first);
    if (!converts(folder / "source.safetensors", once, first)) continue;
    ++written;
    expect_changes(read_lora(once), changes);
    for (const auto& second : kTargets) {
      SCOPED_TRACE(second);
      auto twice = output(folder, first + "-" + second, second);
      if (converts(once, twice, second)) expect_changes(read_lora(twice), changes);
    }
  }
  EXPECT_GE(written, 3u);
}

INSTANTIATE_TEST_SUITE_P(All, ReadingMetadata,
                         testing::Combine(testing::Range(size_t(0), spellings().size()),
                                          testing::Range(size_t(0), metas().size())),
                         [](const auto& test) {
                           return std::string(spellings()[std::get<0>(test.param)].name) + "_" +
                                  metas()[std::get<1>(test.param)].name;
                         });

}  // namespace lora
