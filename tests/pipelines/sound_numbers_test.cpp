// NaN and infinity never become a picture: the step and the likely cause are told.
#include "pipelines/tiny_pipelines.h"

namespace lora {

namespace {

CallOptions options() { return {.num_inference_steps = 3, .seed = {1}}; }

std::string refused(const DiffusionPipeline& pipe, const CallOptions& o) {
  return error_of(ErrorKind::unsupported, [&] { pipe.generate_latents("red apple", o); });
}

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace

class SoundNumbers : public testing::TestWithParam<std::string> {};

TEST_P(SoundNumbers, ThePlaceAndTheAdapterAreNamed) {
  auto pipe = tiny::open(GetParam());
  pipe->load_lora_weights(tiny::factors(*pipe, "ink", {"to_v", "value", "v_proj"}, 2), {.adapter_name = "ink"});
  pipe->load_lora_weights(tiny::factors(*pipe, "neon", {"to_v", "value", "v_proj"}, 2), {.adapter_name = "neon"});
  const std::string denoiser = pipe->models().front().name;

  auto text = refused(*pipe, [&] {
    auto o = options();
    o.adapters = {{.name = "ink", .weight = LoraScale::Dict{{"text_encoder", 1e38}}}};
    return o;
  }());
  EXPECT_TRUE(has(text, "text embeddings have NaN or infinite numbers") && has(text, "adapters (ink)")) << text;

  // The schedule lets the first step be.
  auto late = options();
  late.adapters = {{.name = "ink", .weight = 0.5},
                   {.name = "neon",
                    .weight = LoraScale::Dict{{denoiser, 1e38}},
                    .schedule = LoraSchedule::by_step({{0, 0}, {1, 1}})}};
  auto message = refused(*pipe, late);
  EXPECT_TRUE(has(message, "step 2 of ") && has(message, "adapters (ink, neon)")) << message;
  EXPECT_FALSE(has(message, "float16")) << message;

  // Active and fused adapters.
  pipe->set_adapters("neon", LoraScale::Dict{{denoiser, 1e38}});
  EXPECT_TRUE(has(refused(*pipe, options()), "step 1 of ")) << refused(*pipe, options());
  EXPECT_TRUE(has(refused(*pipe, options()), "adapters (neon)")) << refused(*pipe, options());
}

INSTANTIATE_TEST_SUITE_P(Pipelines, SoundNumbers, testing::Values("sd", "sdxl", "sd3", "amused-256"), tiny::test_name);

// A VAE whose activations are beyond float16.
TEST(SoundNumbers, AVaeThatOverflowsInHalfPrecisionDecodesInFloat32) {
  TemporaryFolder folder;
  std::filesystem::copy(tiny::folder("sd"), folder / "sd", std::filesystem::copy_options::recursive);
  auto file = folder / "sd" / "vae" / "diffusion_pytorch_model.safetensors";
  StateDict tensors;
  for (const auto& [name, t] : load_state_dict(file))
    tensors.set(name, name == "decoder.conv_in.weight" || name == "encoder.conv_in.weight" ? t * 3e4 : t.clone());
  save_safetensors(tensors, file);
  auto open = [&](Dtype dtype) { return StableDiffusionPipeline::from_pretrained(folder / "sd", {.dtype = dtype}); };
  auto half = open(at::kHalf), full = open(at::kFloat);
  auto latents = at::randn({1, 4, 8, 8}) * 3;
  EXPECT_FALSE(at::isfinite(half.vae.decode(latents.to(at::kHalf) / half.vae.scaling_factor())).all().item<bool>());
  auto got = half.decode_latents(latents.to(at::kHalf)).front();
  auto wanted = full.decode_latents(latents.to(at::kHalf).to(at::kFloat)).front();
  for (size_t i = 0; i < wanted.pixels.size(); ++i)
    ASSERT_NEAR(int(got.pixels[i]), int(wanted.pixels[i]), 2) << "at " << i;

  // The same for the image that a call starts from.
  auto from_image = options();
  from_image.image = {tiny::picture("sound", {16, 16})};
  from_image.num_inference_steps = 2;
  EXPECT_LE(distance(half.generate_latents("owl", from_image).to(at::kFloat), full.generate_latents("owl", from_image)),
            0.05);
}

TEST(SoundNumbers, LatentsThatAreNoNumbersAreNotDecoded) {
  auto pipe = tiny::open("sd");
  auto latents = at::zeros({1, 4, 8, 8});
  latents[0][1][2][3] = NAN;
  auto message = error_of(ErrorKind::unsupported, [&] { pipe->decode_latents(latents); });
  EXPECT_TRUE(has(message, "the latents have NaN or infinite numbers")) << message;
}

}  // namespace lora
