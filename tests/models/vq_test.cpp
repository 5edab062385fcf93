#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include "lora/autoencoders.h"
#include "models/parts_of.h"
#include "models/reference_cases.h"
#include "nn/site.h"
#include "support/compare.h"

namespace lora {
namespace {

constexpr double kFloat32Tolerance = 1e-5;

const reference::Cases<VQModel> kCases("vq");

Tensor pixels_of(const std::string& name) {
  return reference::input(name + ".pixels", kCases[name]["pixels"].get<std::vector<int64_t>>());
}

Tensor tokens_of(const std::string& name) {
  auto shape = kCases.expected(name + ".float32.tokens").sizes();
  return reference::tokens(name + ".tokens", shape, kCases[name]["config"]["num_vq_embeddings"]);
}

TEST(VQModel, FindsTheTokensThatDiffusersFinds) {
  c10::InferenceMode inference;
  for (const auto& [name, reference_case] : kCases.all().items()) {
    auto vq = kCases.make_from(reference_case);
    auto tokens = vq.encode(pixels_of(name));
    EXPECT_EQ(tokens.scalar_type(), at::kLong);
    EXPECT_TRUE(at::equal(tokens, kCases.expected(name + ".float32.tokens"))) << name;
    EXPECT_LT(distance(vq.decode(tokens), kCases.expected(name + ".float32.round")), kFloat32Tolerance) << name;
  }
}

TEST(VQModel, DecodesAsDiffusersDoes) {
  c10::InferenceMode inference;
  for (const auto& [name, reference_case] : kCases.all().items()) {
    auto pixels = kCases.make_from(reference_case).decode(tokens_of(name));
    EXPECT_LT(distance(pixels, kCases.expected(name + ".float32.decoded")), kFloat32Tolerance) << name;
  }
}

TEST(VQModel, DecodesInHalfTypesAsWellAsDiffusers) {
  c10::InferenceMode inference;
  for (auto dtype : {at::kBFloat16, at::kHalf})
    for (const auto& [name, reference_case] : kCases.all().items()) {
      auto pixels = kCases.make_from(reference_case, dtype).decode(tokens_of(name));
      SCOPED_TRACE(name + " " + to_string(dtype));
      auto theirs = kCases.expected(name + "." + to_string(dtype) + ".decoded");
      expect_as_accurate(pixels, theirs, kCases.expected(name + ".float32.decoded"));
    }
}

// Where two entries are about as near, rounding decides: in one place of eight at the most.
TEST(VQModel, FindsTokensInHalfTypes) {
  c10::InferenceMode inference;
  for (auto dtype : {at::kBFloat16, at::kHalf})
    for (const auto& [name, reference_case] : kCases.all().items()) {
      auto tokens = kCases.make_from(reference_case, dtype).encode(pixels_of(name).to(dtype));
      auto others = (tokens != kCases.expected(name + ".float32.tokens")).sum().item<int64_t>();
      EXPECT_LE(others, tokens.numel() / 8) << name << " " << to_string(dtype);
    }
}

TEST(VQModel, KnowsItsSizes) {
  auto amused = kCases.make("amused"), attention = kCases.make("attention");
  EXPECT_EQ(amused.class_name(), "VQModel");
  EXPECT_EQ(amused.scale_factor(), 4);
  EXPECT_EQ(amused.num_vq_embeddings(), 32);
  EXPECT_TRUE(amused.force_upcast());
  EXPECT_EQ(attention.scale_factor(), 2);
  EXPECT_FALSE(attention.force_upcast());
  EXPECT_TRUE(parts_of(attention).by_path.contains("quantize.embedding"));
}

TEST(VQModel, HasTheTensorsOfPublishedModels) {
  for (const auto& [name, vq] : kCases.full_size()) EXPECT_EQ(vq.scale_factor(), 16) << name;
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
  for (const auto& [field, value, kind] : values) kCases.expect_refused("attention", field, value, kind);
}

TEST(VQModelErrors, NamesInputsThatDoNotFit) {
  c10::InferenceMode inference;
  auto vq = kCases.make("amused");
  auto decode_error = [&](const Tensor& tokens) { return error_of(ErrorKind::usage, [&] { vq.decode(tokens); }); };
  EXPECT_THAT(error_of(ErrorKind::usage,
                       [&] {
                         vq.encode(at::zeros({1, 4, 8, 8}));
                       }),
              AllOf(HasSubstr("VQModel: pixels must be float32 [N, 3, H, W]"), HasSubstr("[1, 4, 8, 8]")));
  EXPECT_THAT(decode_error(at::zeros({1, 2, 2})), AllOf(HasSubstr("tokens must be int64"), HasSubstr("Float")));
  EXPECT_THAT(decode_error(at::full({1, 2, 2}, 32, at::kLong)), HasSubstr("but the codebook has 0 to 31"));
}

}  // namespace
}  // namespace lora
