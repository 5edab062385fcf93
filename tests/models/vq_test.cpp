#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "lora/autoencoders.h"
#include "models/parts_of.h"
#include "models/reference_model.h"
#include "nn/site.h"
#include "support/compare.h"

namespace lora {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;

constexpr double kFloat32Tolerance = 1e-5;

const json& cases() {
  static const json all = reference::read("vq_cases.json");
  return all;
}

const StateDict& expected() {
  static const StateDict all = load_state_dict(reference::data("vq_outputs.safetensors"));
  return all;
}

VQModel make(const json& reference_case, Dtype dtype = at::kFloat) {
  return VQModel::from_state_dict(reference_case["config"].dump(), reference::tensors_of(reference_case["layers"]),
                                  {.dtype = dtype});
}

Tensor pixels_of(const std::string& name) {
  return reference::input(name + ".pixels", cases()[name]["pixels"].get<std::vector<int64_t>>());
}

Tensor tokens_of(const std::string& name) {
  auto shape = expected().at(name + ".float32.tokens").sizes();
  return reference::tokens(name + ".tokens", shape, cases()[name]["config"]["num_vq_embeddings"]);
}

TEST(VQModel, FindsTheTokensThatDiffusersFinds) {
  c10::InferenceMode inference;
  for (const auto& [name, reference_case] : cases().items()) {
    auto vq = make(reference_case);
    auto tokens = vq.encode(pixels_of(name));
    EXPECT_EQ(tokens.scalar_type(), at::kLong);
    EXPECT_TRUE(at::equal(tokens, expected().at(name + ".float32.tokens"))) << name;
    EXPECT_LT(distance(vq.decode(tokens), expected().at(name + ".float32.round")), kFloat32Tolerance) << name;
  }
}

TEST(VQModel, DecodesAsDiffusersDoes) {
  c10::InferenceMode inference;
  for (const auto& [name, reference_case] : cases().items()) {
    auto pixels = make(reference_case).decode(tokens_of(name));
    EXPECT_LT(distance(pixels, expected().at(name + ".float32.decoded")), kFloat32Tolerance) << name;
  }
}

// Two ways of rounding a result differ from each other by about as much as either does from the exact one.
TEST(VQModel, DecodesInHalfTypesAsWellAsDiffusers) {
  c10::InferenceMode inference;
  for (auto dtype : {at::kBFloat16, at::kHalf})
    for (const auto& [name, reference_case] : cases().items()) {
      auto pixels = make(reference_case, dtype).decode(tokens_of(name));
      const auto& theirs = expected().at(name + "." + to_string(dtype) + ".decoded");
      const auto& exact = expected().at(name + ".float32.decoded");
      EXPECT_LT(distance(pixels, theirs), 1.5 * distance(theirs, exact)) << name;
      EXPECT_LT(distance(pixels, exact), 1.5 * distance(theirs, exact)) << name;
    }
}

// Where two entries are about as near, rounding decides: in one place of eight at the most.
TEST(VQModel, FindsTokensInHalfTypes) {
  c10::InferenceMode inference;
  for (auto dtype : {at::kBFloat16, at::kHalf})
    for (const auto& [name, reference_case] : cases().items()) {
      auto tokens = make(reference_case, dtype).encode(pixels_of(name).to(dtype));
      auto others = (tokens != expected().at(name + ".float32.tokens")).sum().item<int64_t>();
      EXPECT_LE(others, tokens.numel() / 8) << name << " " << to_string(dtype);
    }
}

TEST(VQModel, KnowsItsSizes) {
  auto amused = make(cases()["amused"]), attention = make(cases()["attention"]);
  EXPECT_EQ(amused.class_name(), "VQModel");
  EXPECT_EQ(amused.scale_factor(), 4);
  EXPECT_EQ(amused.num_vq_embeddings(), 32);
  EXPECT_TRUE(amused.force_upcast());
  EXPECT_EQ(attention.scale_factor(), 2);
  EXPECT_FALSE(attention.force_upcast());
  EXPECT_TRUE(parts_of(attention).by_path.contains("quantize.embedding"));
}

TEST(VQModel, HasTheTensorsOfPublishedModels) {
  const auto models = reference::read("vq_full_size.json");
  for (const auto& [name, model] : models.items()) {
    auto tensors = reference::tensors_of(model["layers"], reference::meta);
    auto vq = VQModel::from_state_dict(model["config"].dump(), tensors, {.dtype = at::kFloat, .device = at::kMeta});
    EXPECT_EQ(vq.state_dict().size(), tensors.size()) << name;
    EXPECT_EQ(vq.scale_factor(), 16) << name;
  }
}

TEST(VQModelErrors, NamesWhatItCannotDo) {
  const std::vector<std::tuple<std::string, json, ErrorKind>> values = {
      {"norm_type", "spatial", ErrorKind::unsupported},
      {"down_block_types", {"DownEncoderBlock2D", "AttnDownEncoderBlock2D"}, ErrorKind::unsupported},
      {"use_quant_conv", true, ErrorKind::unsupported},
      {"norm_num_groups", 3, ErrorKind::bad_file},
      {"num_vq_embeddings", 0, ErrorKind::bad_file},
      {"vq_embed_dim", "four", ErrorKind::bad_file},
  };
  for (const auto& [field, value, kind] : values) {
    auto c = cases()["attention"];
    c["config"][field] = value;
    EXPECT_THAT(error_of(kind, [&] { make(c); }), AllOf(HasSubstr("state dict"), HasSubstr('"' + field + '"')));
  }
}

TEST(VQModelErrors, NamesInputsThatDoNotFit) {
  c10::InferenceMode inference;
  auto vq = make(cases()["amused"]);
  auto decode_error = [&](const Tensor& tokens) { return error_of(ErrorKind::usage, [&] { vq.decode(tokens); }); };
  EXPECT_THAT(error_of(ErrorKind::usage,
                       [&] {
                         vq.encode(at::zeros({1, 4, 8, 8}));
                       }),
              AllOf(HasSubstr("VQModel: pixels must be float32 [N, 3, H, W]"), HasSubstr("[1, 4, 8, 8]")));
  EXPECT_THAT(decode_error(at::zeros({1, 2, 2})), AllOf(HasSubstr("tokens must be int64"), HasSubstr("Float")));
  EXPECT_THAT(decode_error(at::full({1, 2, 2}, 32, at::kLong)), HasSubstr("the codebook 0 to 31"));
}

}  // namespace
}  // namespace lora
