// Every kind, in every format, for every base model: what is written is read back the same.
#include <gmock/gmock.h>

#include "files/change.h"
#include "lora/files.h"
#include "support/compare.h"
#include "support/folder.h"
#include "support/random_layers.h"

namespace lora {

namespace {

struct ModelLayers {
  std::string component;
  std::vector<Weight> alone;                // layers that the model's own code has as they are
  std::vector<std::vector<Weight>> joined;  // layers that it has in one, in the order of their rows
  std::vector<Weight> swapped;              // layers whose halves it has the other way round
};

std::vector<ModelLayers> unet_layers(BaseModel model, int64_t cross_attention) {
  std::vector<int64_t> proj_kernel;
  if (model == BaseModel::sd1) proj_kernel = {1, 1};
  return {{"unet",
           {{"down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k", 8, cross_attention, {}},
            {"mid_block.attentions.0.proj_in", 8, 12, proj_kernel},
            {"mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj", 24, 8, {}},
            {"up_blocks.1.resnets.0.conv1", 8, 6 * 9, {3, 3}},
            {"up_blocks.1.upsamplers.0.conv", 6, 6 * 9, {3, 3}},
            {"mid_block.resnets.0.norm1", 8, 1, {}, true}},
           {},
           {}}};
}

ModelLayers clip(const std::string& component) {
  return {
      component,
      {{"text_model.encoder.layers.0.self_attn.q_proj", 8, 8, {}}, {"text_model.encoder.layers.3.mlp.fc2", 8, 16, {}}},
      {},
      {}};
}

ModelLayers t5(const std::string& component) {
  return {component,
          {{"encoder.block.0.layer.0.SelfAttention.q", 8, 8, {}},
           {"encoder.block.1.layer.1.DenseReluDense.wi_0", 16, 8, {}}},
          {},
          {}};
}

std::vector<ModelLayers> layers_of_model(BaseModel model) {
  std::vector<ModelLayers> all;
  switch (model) {
    case BaseModel::sd1: all = unet_layers(model, 768), all.push_back(clip("text_encoder")); break;
    case BaseModel::sd2: all = unet_layers(model, 1024), all.push_back(clip("text_encoder")); break;
    case BaseModel::sdxl:
      all = unet_layers(model, 2048);
      all[0].alone.push_back({"add_embedding.linear_2", 8, 8, {}});
      all.push_back(clip("text_encoder"));
      all.push_back(clip("text_encoder_2"));
      break;
    case BaseModel::sdxl_refiner: all = unet_layers(model, 1280), all.push_back(clip("text_encoder_2")); break;
    case BaseModel::sd3:
      all = {{"transformer",
              {{"transformer_blocks.0.attn.to_out.0", 8, 8, {}}, {"transformer_blocks.0.norm1.linear", 48, 8, {}}},
              {{{"transformer_blocks.0.attn.to_q", 8, 8, {}},
                {"transformer_blocks.0.attn.to_k", 8, 8, {}},
                {"transformer_blocks.0.attn.to_v", 8, 8, {}}}},
              {{"norm_out.linear", 16, 8, {}}}},
             clip("text_encoder"),
             clip("text_encoder_2"),
             t5("text_encoder_3")};
      break;
    case BaseModel::flux:
      all = {{"transformer",
              {{"transformer_blocks.0.ff.net.2", 8, 8, {}}, {"single_transformer_blocks.1.proj_out", 8, 40, {}}},
              {{{"transformer_blocks.0.attn.add_q_proj", 8, 8, {}},
                {"transformer_blocks.0.attn.add_k_proj", 8, 8, {}},
                {"transformer_blocks.0.attn.add_v_proj", 8, 8, {}}},
               {{"single_transformer_blocks.1.attn.to_q", 8, 8, {}},
                {"single_transformer_blocks.1.attn.to_k", 8, 8, {}},
                {"single_transformer_blocks.1.attn.to_v", 8, 8, {}},
                {"single_transformer_blocks.1.proj_mlp", 32, 8, {}}}},
              {{"norm_out.linear", 16, 8, {}}}},
             clip("text_encoder"),
             t5("text_encoder_2")};
      break;
    case BaseModel::amused:
      all = {{"transformer", {{"transformer_layers.3.attn1.to_q", 8, 8, {}}}, {}, {}}, clip("text_encoder")};
      break;
    default: break;  // known by name only
  }
  return all;
}

LoraFile made_file(const KindCase& kind, BaseModel model) {
  const auto& row = *row_of(model);
  LoraFile file{.base_model = model, .source = "made"};
  file.metadata["ss_base_model_version"] = row.version;
  file.metadata["modelspec.architecture"] = row.spec;
  for (const auto& [component, alone, joined, swapped] : layers_of_model(model)) {
    for (const auto& weight : alone) file.layers.push_back(layer_for(kind, component, weight));
    if (!kind.can_be_cut) continue;
    for (const auto& weight : swapped) file.layers.push_back(layer_for(kind, component, weight));
    for (const auto& parts : joined) {
      auto whole_weight = parts.front();
      whole_weight.rows = 0;
      for (const auto& part : parts) whole_weight.rows += part.rows;
      auto whole = layer_for(kind, component, whole_weight);
      const int unit = int(parts.front().rows);
      int begin = 0;
      for (const auto& part : parts) {
        auto end = begin + int(part.rows) / unit;
        auto layer = cut(whole, {begin, end, int(whole_weight.rows) / unit}, "test");
        layer.path = part.path;
        file.layers.push_back(layer);
        begin = end;
      }
    }
  }
  return file;
}

void expect_same_layer(const LoraLayer& got, const LoraLayer& wanted) {
  EXPECT_EQ(got.kind, kind_name(wanted.tensors));
  if (factors_of(wanted.tensors) == Factors::with_core_folded && !got.tensors.contains("lora_mid.weight"))
    return expect_close(dense(change_of(got)), dense(change_of(wanted)), 1e-6);
  ASSERT_EQ(got.tensors.size(), wanted.tensors.size());
  for (const auto& [suffix, tensor] : wanted.tensors) {
    auto other = get(got.tensors, suffix);
    ASSERT_TRUE(other.defined()) << suffix;
    EXPECT_EQ(other.scalar_type(), tensor.scalar_type()) << suffix;
    EXPECT_TRUE(at::equal(other, tensor)) << suffix;
  }
  auto rank = rank_of(wanted.tensors);
  EXPECT_EQ(strength_of(got, rank).scale, strength_of(wanted, rank).scale);
  EXPECT_EQ(strength_of(got, rank).alpha, strength_of(wanted, rank).alpha);
}

void expect_same(const LoraFile& got, const LoraFile& wanted, bool dotted) {
  std::map<std::string, const LoraLayer*> by_name;
  for (const auto& layer : got.layers) by_name[layer.name()] = &layer;
  EXPECT_EQ(by_name.size(), wanted.layers.size());
  EXPECT_THAT(got.unmatched, testing::IsEmpty());
  for (const auto& layer : wanted.layers) {
    SCOPED_TRACE(layer.name());
    ASSERT_TRUE(by_name.contains(layer.name()));
    expect_same_layer(*by_name[layer.name()], dotted ? as_peft(layer) : as_kohya(layer));
  }
}

}  // namespace

using Case = std::tuple<size_t, BaseModel>;
class EveryKind : public testing::TestWithParam<Case> {};

TEST_P(EveryKind, IsReadAsItWasWritten) {
  at::manual_seed(5);
  const auto& kind = kind_cases().at(std::get<0>(GetParam()));
  const auto model = std::get<1>(GetParam());
  auto file = made_file(kind, model);
  TemporaryFolder folder(TemporaryFolder::in_memory());
  size_t written = 0;
  for (const std::string target : {"kohya", "comfy", "diffusers", "peft"}) {
    SCOPED_TRACE(target);
    auto out = folder / (target + (target == "peft" ? "" : ".safetensors"));
    try {
      convert_lora(file, out, {.to = target});
    } catch (const Error& error) {
      // What a format cannot hold is refused whole.
      ASSERT_EQ(error.kind(), ErrorKind::unsupported) << error.what();
      EXPECT_FALSE(std::filesystem::exists(out));
      continue;
    }
    ++written;
    auto read = read_lora(out);
    if (target != "peft") {
      EXPECT_EQ(read.base_model, model);
    }
    expect_same(read, file, target == "diffusers" || target == "peft");
  }
  // ComfyUI and kohya have every kind; they do not have names for aMUSEd, and diffusers and PEFT hold plain LoRA.
  EXPECT_GE(written, model == BaseModel::amused ? 0u : 2u);
}

INSTANTIATE_TEST_SUITE_P(All, EveryKind,
                         testing::Combine(testing::Range(size_t(0), kind_cases().size()),
                                          testing::Values(BaseModel::sd1, BaseModel::sd2, BaseModel::sdxl,
                                                          BaseModel::sdxl_refiner, BaseModel::sd3, BaseModel::flux,
                                                          BaseModel::amused)),
                         [](const auto& test) {
                           auto label = std::string(to_string(std::get<1>(test.param)));
                           std::erase_if(label, [](unsigned char c) { return !std::isalnum(c); });
                           return std::string(kind_cases()[std::get<0>(test.param)].name) + "_" + label;
                         });

}  // namespace lora
