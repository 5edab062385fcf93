// What a pipeline takes from a model's files, and what it says of them.
#include <gmock/gmock.h>

#include "pipelines/tiny_pipelines.h"

namespace lora {

namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

// A copy of a tiny pipeline's folder, to be changed.
class ModelFiles : public testing::Test {
 protected:
  fs::path copy(const std::string& name) {
    fs::copy(tiny::folder(name), folder_ / name, fs::copy_options::recursive);
    return folder_ / name;
  }
  static Tensor draw(const DiffusionPipeline& pipe) {
    return pipe.generate_latents("red apple", {.height = 16, .width = 16, .num_inference_steps = 2, .seed = {1}});
  }

  TemporaryFolder folder_;
};

std::string refused(ErrorKind kind, const fs::path& model, const PipelineOptions& options) {
  return error_of(kind, [&] { DiffusionPipeline::from_pretrained(model, options); });
}

std::string prediction_type(const DiffusionPipeline& pipe) {
  return nlohmann::json::parse(pipe.scheduler->config())["prediction_type"];
}

}  // namespace

// ---- The scheduler --------------------------------------------------------------------------------------------------

TEST_F(ModelFiles, AnotherSchedulerDrawsAModelWhoseOwnIsNotSupported) {
  for (const char* model : {"sd", "sdxl"}) {
    auto root = copy(model);
    auto file = root / "scheduler" / "scheduler_config.json";
    auto config = nlohmann::json::parse(std::ifstream(file));
    auto wanted = draw(*DiffusionPipeline::from_pretrained(root, {.dtype = at::kFloat, .scheduler = "euler"}));
    for (const auto& [name, more] : std::map<std::string, nlohmann::json>{
             {"SASolverScheduler", {{"predictor_order", 2}, {"corrector_order", 2}, {"tau_func", nullptr}}},
             {"KDPM2DiscreteScheduler", nlohmann::json::object()},
             {"IPNDMScheduler", nlohmann::json::object()},
             {"DDIMScheduler", {{"beta_schedule", "laplace"}}}}) {
      SCOPED_TRACE(name);
      auto own = config;
      own.update(more);
      own["_class_name"] = name;
      tiny::write(file, own);
      EXPECT_THAT(refused(ErrorKind::unsupported, root, {}),
                  HasSubstr("to draw with another one, give its name as scheduler"));
      if (more.contains("beta_schedule")) continue;  // the other scheduler does not support this one either
      auto pipe = DiffusionPipeline::from_pretrained(root, {.dtype = at::kFloat, .scheduler = "euler"});
      EXPECT_TRUE(at::equal(draw(*pipe), wanted));
      EXPECT_EQ(pipe->scheduler->class_name(), "EulerDiscreteScheduler");
    }
  }
}

TEST_F(ModelFiles, APredictionTypeReplacesTheFiles) {
  auto root = copy("sd");
  auto drawn = [&](const char* type, const char* scheduler = "") {
    auto pipe = DiffusionPipeline::from_pretrained(
        root, {.dtype = at::kFloat, .scheduler = scheduler, .prediction_type = type});
    if (*type) {
      EXPECT_EQ(prediction_type(*pipe), type);
    }
    return draw(*pipe);
  };
  auto file = root / "scheduler" / "scheduler_config.json";
  auto config = nlohmann::json::parse(std::ifstream(file));
  EXPECT_TRUE(at::equal(drawn("epsilon"), drawn("")));
  auto velocity = drawn("v_prediction"), by_ddim = drawn("v_prediction", "ddim");
  config["prediction_type"] = "v_prediction";
  tiny::write(file, config);
  EXPECT_TRUE(at::equal(drawn(""), velocity));
  EXPECT_TRUE(at::equal(drawn("", "ddim"), by_ddim));
  EXPECT_FALSE(at::equal(drawn("epsilon"), velocity));

  EXPECT_THAT(refused(ErrorKind::unsupported, root, {.prediction_type = "x0"}), HasSubstr("prediction_type \"x0\""));
  for (const char* other : {"sd3", "amused-256"})
    EXPECT_THAT(refused(ErrorKind::usage, tiny::folder(other), {.prediction_type = "epsilon"}),
                HasSubstr("does not take one"));
}

// ---- Variants -------------------------------------------------------------------------------------------------------

TEST_F(ModelFiles, AComponentWithoutTheVariantIsReadWithoutIt) {
  auto root = copy("sd");
  auto unet = root / "unet" / "diffusion_pytorch_model.safetensors";
  StateDict halves;
  for (const auto& [name, t] : load_state_dict(unet)) halves.set(name, t.to(at::kHalf));
  save_safetensors(halves, root / "unet" / "diffusion_pytorch_model.fp16.safetensors");
  auto pipe = StableDiffusionPipeline::from_pretrained(root, {.dtype = at::kFloat, .variant = "fp16"});
  auto own = StableDiffusionPipeline::from_pretrained(root, {.dtype = at::kFloat});
  auto weight = [](const StableDiffusionPipeline& p) { return p.unet.state_dict().at("conv_in.weight"); };
  EXPECT_TRUE(at::equal(weight(pipe), weight(own).to(at::kHalf).to(at::kFloat)));
  EXPECT_FALSE(at::equal(weight(pipe), weight(own)));
  EXPECT_THAT(pipe.notes(), ElementsAre(HasSubstr("no weights of variant \"fp16\" in text_encoder, vae")));
  EXPECT_THAT(own.notes(), IsEmpty());
  EXPECT_EQ(stored_dtype(root, {.variant = "fp16"}), at::kHalf);
  EXPECT_THAT(refused(ErrorKind::not_found, root, {.variant = "bf16"}), HasSubstr("variant \"bf16\""));
}

// ---- Tensors that no model has --------------------------------------------------------------------------------------

TEST_F(ModelFiles, TensorsThatNoModelHasAreANote) {
  auto root = copy("sd");
  auto with = [&](const fs::path& file, const std::string& name) {
    StateDict tensors;
    for (const auto& [key, t] : load_state_dict(tiny::folder("sd") / file)) tensors.set(key, t.clone());
    tensors.set(name, at::ones({1}));
    save_safetensors(tensors, root / file);
  };
  with("unet/diffusion_pytorch_model.safetensors", "train_step_counter");
  with("text_encoder/model.safetensors", "vision_model.embeddings.class_embedding");
  with("vae/diffusion_pytorch_model.safetensors", "loss.logvar");
  auto pipe = DiffusionPipeline::from_pretrained(root, {.dtype = at::kFloat});
  EXPECT_THAT(pipe->notes(),
              ElementsAre(HasSubstr("unet: the model does not have these tensors, which were left out: train_step"),
                          HasSubstr("vision_model.embeddings.class_embedding"), HasSubstr("vae: ")));
  EXPECT_TRUE(at::equal(draw(*pipe), draw(*tiny::open("sd"))));

  // One more block, and a bias of a layer: this is another model than the config says.
  for (const char* name : {"down_blocks.7.resnets.0.conv1.weight", "conv_in.extra"}) {
    with("unet/diffusion_pytorch_model.safetensors", name);
    EXPECT_THAT(refused(ErrorKind::bad_key, root, {}), HasSubstr(name));
  }
}

}  // namespace lora
