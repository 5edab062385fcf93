#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include "lora/autoencoders.h"
#include "models/parts_of.h"
#include "models/reference_cases.h"
#include "nn/random.h"
#include "nn/site.h"
#include "support/compare.h"

namespace lora {
namespace {

constexpr double kFloat32Tolerance = 1e-5;

const reference::Cases<AutoencoderKL> kCases("vae");

std::map<std::string, Tensor> run(const AutoencoderKL& vae, const std::string& name) {
  auto pixels = reference::input(name + ".pixels", kCases[name]["pixels"].get<std::vector<int64_t>>());
  auto posterior = vae.encode(pixels.to(vae.dtype()));
  auto latents = reference::input(name + ".latents", posterior.mean.sizes());
  return {{"mean", posterior.mean},
          {"logvar", posterior.logvar},
          {"sample", posterior.sample({make_generator(5)})},
          {"decoded", vae.decode(latents.to(vae.dtype()))}};
}

TEST(AutoencoderKL, ComputesWhatDiffusersComputes) {
  c10::InferenceMode inference;
  for (const auto& [name, reference_case] : kCases.all().items())
    for (const auto& [what, value] : run(kCases.make_from(reference_case), name))
      EXPECT_LT(distance(value, kCases.expected(name + ".float32." + what)), kFloat32Tolerance) << name << " " << what;
}

TEST(AutoencoderKL, ComputesInBfloat16AsWellAsDiffusers) {
  c10::InferenceMode inference;
  for (const auto& [name, reference_case] : kCases.all().items())
    for (const auto& [what, value] : run(kCases.make_from(reference_case, at::kBFloat16), name)) {
      if (what == "sample") continue;  // its noise is drawn in bfloat16: other numbers
      SCOPED_TRACE(name + " " + what);
      auto theirs = kCases.expected(name + ".bfloat16." + what);
      expect_as_accurate(value, theirs, kCases.expected(name + ".float32." + what));
    }
}

TEST(AutoencoderKL, LoadsFilesWithTheAttentionsOldNames) {
  c10::InferenceMode inference;
  auto vae = AutoencoderKL::from_pretrained(reference::data("vae/sd"), {.dtype = at::kFloat});
  for (const auto& [what, value] : run(vae, "sd"))
    EXPECT_LT(distance(value, kCases.expected("sd.float32." + what)), kFloat32Tolerance) << what;
  EXPECT_EQ(parts_of(vae).by_path.count("encoder.mid_block.attentions.0.to_out.0"), 1u);
  EXPECT_TRUE(vae.state_dict().contains("decoder.mid_block.attentions.0.to_q.weight"));
}

TEST(AutoencoderKL, KnowsItsSizes) {
  auto sd = kCases.make("sd"), sd3 = kCases.make("sd3");
  EXPECT_EQ(sd.class_name(), "AutoencoderKL");
  EXPECT_EQ(sd.scale_factor(), 2);
  EXPECT_EQ(sd.latent_channels(), 4);
  EXPECT_EQ(sd.scaling_factor(), 0.18215);
  EXPECT_EQ(sd.shift_factor(), 0);
  EXPECT_TRUE(sd.force_upcast());
  EXPECT_EQ(sd3.scale_factor(), 4);
  EXPECT_EQ(sd3.scaling_factor(), 1.5305);
  EXPECT_EQ(sd3.shift_factor(), 0.0609);
  EXPECT_FALSE(sd3.force_upcast());
}

TEST(AutoencoderKL, HasTheTensorsOfPublishedModels) { EXPECT_FALSE(kCases.full_size().empty()); }

TEST(AutoencoderKL, GivesTheSameWithAndWithoutGradients) {
  auto vae = kCases.make("sd");
  auto with = run(vae, "sd");
  c10::InferenceMode inference;
  for (const auto& [what, value] : run(vae, "sd")) EXPECT_TRUE(at::equal(value, with.at(what))) << what;
}

TEST(DiagonalGaussian, DrawsEachImageFromItsOwnGenerator) {
  DiagonalGaussian gaussian{.mean = at::zeros({2, 4, 3, 3}), .logvar = at::zeros({2, 4, 3, 3})};
  auto both = gaussian.sample({make_generator(1), make_generator(2)});
  DiagonalGaussian second{.mean = gaussian.mean.slice(0, 1), .logvar = gaussian.logvar.slice(0, 1)};
  EXPECT_TRUE(at::equal(both.slice(0, 1), second.sample({make_generator(2)})));
  EXPECT_TRUE(at::equal(gaussian.sample({make_generator(3)}), gaussian.sample({make_generator(3)})));
  EXPECT_FALSE(at::equal(gaussian.sample(), gaussian.sample()));
  expect_error(ErrorKind::usage, HasSubstr("there are 3 for a batch of 2"), [&] {
    gaussian.sample({make_generator(1), make_generator(2), make_generator(3)});
  });
}

TEST(AutoencoderKLErrors, NamesWhatItCannotDo) {
  const std::vector<std::tuple<std::string, json, ErrorKind>> values = {
      {"down_block_types", {"DownEncoderBlock2D", "AttnDownEncoderBlock2D"}, ErrorKind::unsupported},
      {"up_block_types", {"AttnUpDecoderBlock2D", "UpDecoderBlock2D"}, ErrorKind::unsupported},
      {"latents_mean", {0.1, 0.2, 0.3, 0.4}, ErrorKind::unsupported},
      {"act_fn", "snake", ErrorKind::unsupported},
      {"scale_factor", 8, ErrorKind::unsupported},
      {"up_block_types", {"UpDecoderBlock2D"}, ErrorKind::bad_file},
      {"norm_num_groups", 5, ErrorKind::bad_file},
      {"layers_per_block", {1, 2}, ErrorKind::bad_file},
      {"force_upcast", "yes", ErrorKind::bad_file},
  };
  for (const auto& [field, value, kind] : values) kCases.expect_refused("sd", field, value, kind);
}

TEST(AutoencoderKLErrors, NamesInputsThatDoNotFit) {
  auto vae = kCases.make("sd");
  expect_error(ErrorKind::usage, AllOf(HasSubstr("pixels must be"), HasSubstr("[1, 4, 8, 8]")), [&] {
    vae.encode(at::zeros({1, 4, 8, 8}));
  });
  expect_error(ErrorKind::usage, HasSubstr("latents must be float32"), [&] {
    vae.decode(at::zeros({1, 4, 8, 8}, at::kHalf));
  });
}

}  // namespace
}  // namespace lora
