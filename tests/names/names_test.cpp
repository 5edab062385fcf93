// The name tables, on the published models' layers: one to one, nothing missing.
#include <set>

#include "core/text.h"
#include "models/reference_model.h"
#include "names/flux.h"
#include "names/module_words.h"
#include "names/native.h"
#include "support/compare.h"

namespace lora {

namespace {

using nlohmann::json;

// The linear layers and convolutions of a published model, as diffusers has them.
std::vector<std::string> layers_of(const std::string& file, const std::string& model) {
  std::vector<std::string> paths;
  auto walk = [&](auto& self, const json& branch, const std::string& path) -> void {
    for (const auto& [name, inner] : branch.items()) {
      auto here = path.empty() ? name : path + "." + name;
      if (inner.is_object())
        self(self, inner, here);
      else if (!inner.empty() && inner[0].is_array() && (inner[0].size() == 2 || inner[0].size() == 4))
        paths.push_back(here);
    }
  };
  const auto all = reference::read(file);
  walk(walk, all.at(model).at("layers"), "");
  return paths;
}

std::string flat(const std::string& path) { return replace_all(path, ".", "_"); }

}  // namespace

struct Table {
  const char *file, *model;
  BaseModel base_model;
  size_t layers;   // linear layers and convolutions of diffusers' model
  size_t natives;  // of the native one; 0 where it is not asked
};

class NameTables : public testing::TestWithParam<Table> {};

TEST_P(NameTables, FlatNamesAreOneToOne) {
  auto paths = layers_of(GetParam().file, GetParam().model);
  EXPECT_EQ(paths.size(), GetParam().layers);
  std::set<std::string> flats;
  for (const auto& path : paths) {
    flats.insert(flat(path));
    EXPECT_EQ(unflatten(flat(path)), path);
  }
  EXPECT_EQ(flats.size(), paths.size());
}

TEST_P(NameTables, NativeNamesAreComplete) {
  auto [file, model, base_model, layers, natives] = GetParam();
  if (natives == 0) return;
  std::set<std::string> names;
  std::set<std::pair<std::string, int>> taken;
  for (const auto& path : layers_of(file, model)) {
    auto place = native_place(path, *row_of(base_model));
    ASSERT_TRUE(place) << path;
    names.insert(place->path);
    EXPECT_TRUE(taken.emplace(place->path, place->rows.begin).second) << path << " is not alone in " << place->path;
    EXPECT_TRUE(is_native(place->path) || place->path == path) << place->path;
    EXPECT_EQ(unflatten(flat(place->path)), place->path);
    auto back = native_layer(place->path, row_of(base_model)->native);
    if (place->path == path) continue;  // both call it the same
    ASSERT_TRUE(back) << place->path;
    EXPECT_EQ(back->halves, place->halves);
    bool found = false;
    for (const auto& layer : back->layers) found |= layer.path == path && layer.rows == place->rows;
    EXPECT_TRUE(found) << place->path << " does not lead back to " << path;
  }
  EXPECT_EQ(names.size(), natives);
}

INSTANTIATE_TEST_SUITE_P(Published, NameTables,
                         testing::Values(Table{"unet_full_size.json", "sd15", BaseModel::sd1, 282, 282},
                                         Table{"unet_full_size.json", "sd21", BaseModel::sd2, 282, 282},
                                         Table{"unet_full_size.json", "sdxl", BaseModel::sdxl, 794, 794},
                                         Table{"sd3_full_size.json", "sd3_medium", BaseModel::sd3, 341, 245},
                                         Table{"sd3_full_size.json", "sd35_medium", BaseModel::sd3, 393, 271},
                                         Table{"sd3_full_size.json", "sd35_large", BaseModel::sd3, 537, 385},
                                         Table{"uvit_full_size.json", "amused_256", BaseModel::amused, 373, 0},
                                         Table{"uvit_full_size.json", "amused_512", BaseModel::amused, 375, 0}),
                         [](const auto& test) { return std::string(test.param.model); });

// What kohya's scripts train of a UNet by default with conv_dim: everything but the four at its ends.
TEST(NameTables, KohyasLayersOfStableDiffusion) {
  for (const char* model : {"sd15", "sd21"}) {
    size_t n = 0;
    for (const auto& path : layers_of("unet_full_size.json", model))
      n += !path.starts_with("conv_") && !path.starts_with("time_embedding");
    EXPECT_EQ(n, 278u) << model;
  }
}

TEST(NameTables, FluxHas314LayersThatAre504) {
  std::set<std::string> native, ours;
  for (const auto& row : flux_rows()) {
    auto name = std::string(row.native), path = std::string(row.ours);
    if (name.ends_with("_norm") || name.ends_with(".linear1.qkv")) continue;  // norms have no linear layer
    int blocks = name.starts_with("double") ? kFluxDoubleBlocks : name.starts_with("single") ? kFluxSingleBlocks : 1;
    for (int i = 0; i < blocks; ++i) {
      auto number = std::to_string(i);
      native.insert(replace_all(name, "#", number));
      ours.insert(replace_all(path, "#", number));
      auto place = native_place(replace_all(path, "#", number), *row_of(BaseModel::flux));
      ASSERT_TRUE(place) << path;
      EXPECT_EQ(place->path, replace_all(name, "#", number));
      EXPECT_EQ(unflatten(flat(place->path)), place->path);
      EXPECT_EQ(unflatten(flat(replace_all(path, "#", number))), replace_all(path, "#", number));
    }
  }
  EXPECT_EQ(native.size(), 314u);
  EXPECT_EQ(ours.size(), 504u);
}

TEST(Names, FlatNamesAreOneToOne) {
  EXPECT_EQ(unflatten("up_blocks_3_attentions_2_proj_out"), "up_blocks.3.attentions.2.proj_out");
  EXPECT_EQ(unflatten("down_blocks_0_downsamplers_0_conv"), "down_blocks.0.downsamplers.0.conv");
  EXPECT_EQ(unflatten("conv_in"), "conv_in");
  EXPECT_EQ(unflatten("time_embedding_linear_2"), "time_embedding.linear_2");
  EXPECT_EQ(unflatten("down_blocks_0_mystery"), std::nullopt);
  EXPECT_EQ(unflatten(""), std::nullopt);
  EXPECT_EQ(unflatten("conv_in_"), std::nullopt);
  EXPECT_EQ(unflatten("encoder_block_0_layer_1_DenseReluDense_wi_0"), "encoder.block.0.layer.1.DenseReluDense.wi_0");
}

TEST(Names, SamplersStandBehindAttentionsWhereThereAreSome) {
  EXPECT_EQ(native_place("up_blocks.0.upsamplers.0.conv", *row_of(BaseModel::sd1))->path, "output_blocks.2.1.conv");
  EXPECT_EQ(native_place("up_blocks.1.upsamplers.0.conv", *row_of(BaseModel::sd1))->path, "output_blocks.5.2.conv");
  EXPECT_EQ(native_place("up_blocks.0.upsamplers.0.conv", *row_of(BaseModel::sdxl))->path, "output_blocks.2.2.conv");
  EXPECT_EQ(native_place("down_blocks.1.downsamplers.0.conv", *row_of(BaseModel::sdxl))->path, "input_blocks.6.0.op");
  EXPECT_EQ(native_layer("input_blocks.10.0.emb_layers.1", NativeNames::unet)->layers.front().path,
            "down_blocks.3.resnets.0.time_emb_proj");
}

}  // namespace lora
