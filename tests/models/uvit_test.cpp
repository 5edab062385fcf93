#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include "lora/denoisers.h"
#include "models/parts_of.h"
#include "models/reference_cases.h"
#include "nn/site.h"
#include "support/compare.h"

namespace lora {
namespace {

constexpr double kFloat32Tolerance = 1e-5;

const reference::Cases<UVit2DModel> kCases("uvit");

struct Inputs {
  Tensor ids, context, pooled, micro_conds;
};

Inputs inputs_of(const std::string& name, const std::string& run, Dtype dtype = at::kFloat) {
  const auto& c = kCases[name]["config"];
  auto size = [&](const char* field) { return c[field].get<int64_t>(); };
  auto shape = kCases[name]["runs"][run].get<std::vector<int64_t>>();
  const auto label = name + "." + run;
  const auto micro_conds = size("micro_cond_embed_dim") / size("micro_cond_encode_dim");
  return {.ids = reference::tokens(label + ".ids", shape, size("vocab_size")),
          .context = reference::input(label + ".context", {shape[0], 7, size("encoder_hidden_size")}).to(dtype),
          .pooled = reference::input(label + ".pooled", {shape[0], size("cond_embed_dim")}).to(dtype),
          .micro_conds = reference::tokens(label + ".sizes", {shape[0], micro_conds}, 512)};
}

Tensor run(const UVit2DModel& model, const Inputs& in) { return model(in.ids, in.context, in.pooled, in.micro_conds); }

template <class Work>
void for_each_run(Work work) {
  c10::InferenceMode inference;
  for (const auto& [name, reference_case] : kCases.all().items())
    for (const auto& [label, shape] : reference_case["runs"].items()) {
      SCOPED_TRACE(name + " " + label);
      work(name, label);
    }
}

TEST(UVit2DModel, ComputesWhatDiffusersComputes) {
  for_each_run([](const std::string& name, const std::string& label) {
    auto logits = run(kCases.make(name), inputs_of(name, label));
    EXPECT_LT(distance(logits, kCases.expected(name + "." + label + ".float32")), kFloat32Tolerance);
  });
}

// Rounding changes the reference by up to 0.06 (bfloat16) and 0.004 (float16) of the largest logit.
TEST(UVit2DModel, ComputesInHalfTypesAsWellAsDiffusers) {
  for (auto dtype : {at::kBFloat16, at::kHalf})
    for_each_run([&](const std::string& name, const std::string& label) {
      auto logits = run(kCases.make(name, dtype), inputs_of(name, label, dtype));
      auto theirs = kCases.expected(name + "." + label + "." + to_string(dtype));
      expect_as_accurate(logits, theirs, kCases.expected(name + "." + label + ".float32"));
    });
}

TEST(UVit2DModel, GivesTheSameWithAndWithoutGradients) {
  auto model = kCases.make("512");
  auto with = run(model, inputs_of("512", "two"));
  c10::InferenceMode inference;
  EXPECT_TRUE(at::equal(run(model, inputs_of("512", "two")), with));
}

TEST(UVit2DModel, TakesImagesByThemselvesOrTogether) {
  c10::InferenceMode inference;
  auto model = kCases.make("256");
  auto both = inputs_of("256", "two");
  auto second = [](const Tensor& t) { return t.slice(0, 1); };
  auto alone = model(second(both.ids), second(both.context), second(both.pooled), second(both.micro_conds));
  EXPECT_LT(distance(alone, second(run(model, both))), kFloat32Tolerance);
}

TEST(UVit2DModel, ListsItsLayersAsSites) {
  auto model = kCases.make("512");
  EXPECT_EQ(model.class_name(), "UVit2DModel");
  EXPECT_EQ(model.sample_size(), 4);
  EXPECT_EQ(model.vocab_size(), 40);
  EXPECT_EQ(model.codebook_size(), 32);
  for (const auto* path : {"embed.conv", "cond_embed.linear_1", "down_block.downsample.conv",
                           "down_block.res_blocks.0.depthwise", "up_block.attention_blocks.0.attn2.to_out.0",
                           "transformer_layers.1.norm3.linear", "transformer_layers.0.ff.net.2", "mlm_layer.conv2"})
    EXPECT_TRUE(parts_of(model).by_path.contains(path)) << path;
  EXPECT_TRUE(model.state_dict().contains("up_block.upsample.conv.weight"));
  EXPECT_TRUE(model.state_dict().contains("down_block.res_blocks.0.channelwise_norm.gamma"));
}

TEST(UVit2DModel, HasTheTensorsOfPublishedModels) { EXPECT_FALSE(kCases.full_size().empty()); }

TEST(UVit2DModelErrors, NamesWhatItCannotDo) {
  const std::vector<std::tuple<std::string, json, ErrorKind>> values = {
      {"use_bias", true, ErrorKind::unsupported},        {"ln_elementwise_affine", false, ErrorKind::unsupported},
      {"upsample", true, ErrorKind::unsupported},        {"num_mid_layers", 2, ErrorKind::unsupported},
      {"block_num_heads", 3, ErrorKind::bad_file},       {"num_attention_heads", 5, ErrorKind::bad_file},
      {"micro_cond_embed_dim", 41, ErrorKind::bad_file}, {"hidden_size", 0, ErrorKind::bad_file},
      {"codebook_size", "many", ErrorKind::bad_file},
  };
  for (const auto& [field, value, kind] : values) kCases.expect_refused("256", field, value, kind);
  auto c = kCases["256"];
  c["config"]["downsample"] = c["config"]["upsample"] = true;
  EXPECT_THAT(error_of(ErrorKind::bad_key, [&] { kCases.make_from(c); }),
              HasSubstr("down_block.downsample.norm.weight"));
}

TEST(UVit2DModelErrors, NamesInputsThatDoNotFit) {
  c10::InferenceMode inference;
  auto model = kCases.make("256");
  const auto good = inputs_of("256", "two");
  auto message = [&](auto change) {
    auto bad = good;
    change(bad);
    return error_of(ErrorKind::usage, [&] { run(model, bad); });
  };
  EXPECT_THAT(message([](Inputs& in) { in.ids = in.ids.to(at::kInt); }),
              AllOf(HasSubstr("input_ids must be int64 [N, h, w]"), HasSubstr("[2, 4, 4]")));
  EXPECT_THAT(message([](Inputs& in) { in.ids = in.ids.flatten(1); }), HasSubstr("[2, 16]"));
  EXPECT_THAT(message([](Inputs& in) { in.ids = Tensor(); }), HasSubstr("got an undefined tensor"));
  EXPECT_THAT(message([](Inputs& in) { in.ids = in.ids + 40; }), HasSubstr("but the vocabulary has 0 to 39"));
  EXPECT_THAT(message([](Inputs& in) { in.ids = in.ids - 40; }), HasSubstr("values -"));
  EXPECT_THAT(message([](Inputs& in) { in.context = in.context.slice(2, 1); }),
              AllOf(HasSubstr("encoder_hidden_states must be float32 [2, tokens, 14]"), HasSubstr("[2, 7, 13]")));
  EXPECT_THAT(message([](Inputs& in) { in.context = in.context.to(at::kHalf); }), HasSubstr("encoder_hidden_states"));
  EXPECT_THAT(message([](Inputs& in) { in.pooled = in.pooled.slice(0, 1); }),
              AllOf(HasSubstr("pooled_text_emb must be float32 [2, 10]"), HasSubstr("[1, 10]")));
  EXPECT_THAT(message([](Inputs& in) { in.micro_conds = in.micro_conds.slice(1, 1); }),
              AllOf(HasSubstr("micro_conds must be [2, 5]"), HasSubstr("[2, 4]")));

  auto halving = kCases.make("512");
  EXPECT_THAT(error_of(ErrorKind::usage, [&] { run(halving, inputs_of("256", "odd")); }),
              AllOf(HasSubstr("even h and w"), HasSubstr("[1, 5, 3]")));
}

}  // namespace
}  // namespace lora
