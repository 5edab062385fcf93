// Whole pipelines from single-file checkpoints (tests/data/models/single_file).
#include "pipelines/tiny_pipelines.h"

namespace lora {

namespace {

// A checkpoint of that kind in the folder.
std::filesystem::path checkpoint(const std::string& kind, const TemporaryFolder& folder) {
  StateDict file;
  auto listed = reference::read("single_file/" + kind + ".json");
  for (const auto& item : listed["file"]) {
    auto name = item[0].get<std::string>();
    file.set(name, reference::weight(name, item[1].get<std::vector<int64_t>>()));
  }
  save_safetensors(file, folder / (kind + ".safetensors"));
  return folder / (kind + ".safetensors");
}

std::vector<std::string> names(const DiffusionPipeline& pipe) {
  std::vector<std::string> all;
  for (const auto& c : pipe.models()) all.push_back(c.name);
  return all;
}

}  // namespace

TEST(SingleFilePipelines, AreThoseThatTheFileIsFor) {
  TemporaryFolder folder;
  std::filesystem::copy(test_data() / "tokenizers" / "t5", folder / "tokenizer_3");
  struct Row {
    const char *kind, *class_name;
    std::vector<std::string> models;
  };
  for (const auto& row : std::vector<Row>{
           {"sd1", "StableDiffusionPipeline", {"unet", "text_encoder"}},
           {"sd2", "StableDiffusionPipeline", {"unet", "text_encoder"}},
           {"sdxl", "StableDiffusionXLPipeline", {"unet", "text_encoder", "text_encoder_2"}},
           {"sdxl_refiner", "StableDiffusionXLPipeline", {"unet", "text_encoder_2"}},
           {"sd3", "StableDiffusion3Pipeline", {"transformer", "text_encoder", "text_encoder_2", "text_encoder_3"}}}) {
    SCOPED_TRACE(row.kind);
    auto pipe = DiffusionPipeline::from_pretrained(checkpoint(row.kind, folder), {.dtype = at::kFloat});
    EXPECT_STREQ(pipe->class_name(), row.class_name);
    EXPECT_EQ(names(*pipe), row.models);
    EXPECT_EQ(stored_dtype(folder / (std::string(row.kind) + ".safetensors")), at::kFloat);

    // A saved folder has the same weights.
    pipe->save_pretrained(folder / row.kind);
    auto again = DiffusionPipeline::from_pretrained(folder / row.kind, {.dtype = at::kFloat});
    EXPECT_STREQ(again->class_name(), row.class_name);
    for (size_t i = 0; i < row.models.size(); ++i)
      for (const auto& [name, tensor] : pipe->models()[i].model->state_dict())
        EXPECT_TRUE(same_bits(again->models()[i].model->state_dict().at(name), tensor)) << row.models[i] << "." << name;
  }
}

// Weights in float8 with scales, as ComfyUI writes them, are restored to the bit after they were fused.
TEST(SingleFilePipelines, Float8IsFusedAndRestored) {
  TemporaryFolder folder;
  StateDict file, wanted;
  for (const auto& [name, t] : load_state_dict(checkpoint("sd1", folder))) {
    const bool scaled = name.starts_with("model.diffusion_model.") && name.ends_with(".weight") && t.dim() == 2;
    const auto values = scaled ? t.to(at::kFloat8_e4m3fn) : t;
    file.set(name, values);
    wanted.set(name, scaled ? values.to(at::kFloat) * 0.75 : t);
    if (scaled) file.set(name.substr(0, name.size() - 6) + "scale_weight", at::full({1}, 0.75));
  }
  save_safetensors(file, folder / "float8.safetensors");
  save_safetensors(wanted, folder / "wanted.safetensors");
  EXPECT_EQ(stored_dtype(folder / "float8.safetensors"), stored_dtype(folder / "wanted.safetensors"));
  for (auto dtype : {at::kFloat, at::kBFloat16}) {
    auto pipe = DiffusionPipeline::from_pretrained(folder / "float8.safetensors", {.dtype = dtype});
    const auto plain = DiffusionPipeline::from_pretrained(folder / "wanted.safetensors", {.dtype = dtype});
    EXPECT_NE(pipe->notes().front().find("float8_e4m3fn with scales, converted to"), std::string::npos);
    auto expect_equal = [&](bool equal) {
      bool all = true;
      for (const auto& [name, t] : plain->models().front().model->state_dict())
        all = all && same_bits(pipe->models().front().model->state_dict().at(name), t);
      EXPECT_EQ(all, equal);
    };
    expect_equal(true);
    pipe->load_lora_weights(tiny::factors(*pipe, "ink", {"to_q", "to_k"}, 2));
    pipe->fuse_lora();
    expect_equal(false);
    pipe->unfuse_lora();
    expect_equal(true);
  }
}

TEST(SingleFilePipelines, TheRefinerIsToldByItsParts) {
  TemporaryFolder folder;
  auto base = StableDiffusionXLPipeline::from_pretrained(checkpoint("sdxl", folder));
  EXPECT_TRUE(base.force_zeros_for_empty_prompt && !base.requires_aesthetics_score);
  auto refiner = StableDiffusionXLPipeline::from_pretrained(checkpoint("sdxl_refiner", folder));
  EXPECT_TRUE(!refiner.force_zeros_for_empty_prompt && refiner.requires_aesthetics_score);
}

TEST(SingleFilePipelines, WhatIsMissingIsNamed) {
  TemporaryFolder folder;
  auto open = [](const std::filesystem::path& file) { DiffusionPipeline::from_pretrained(file); };
  auto no_tokenizer = error_of(ErrorKind::not_found, [&] { open(checkpoint("sd3", folder)); });
  EXPECT_NE(no_tokenizer.find("Put the folder tokenizer_3"), std::string::npos) << no_tokenizer;
  auto no_text = error_of(ErrorKind::bad_file, [&] { open(checkpoint("sd35", folder)); });
  EXPECT_NE(no_text.find("the checkpoint has no text_encoder"), std::string::npos) << no_text;
  auto other =
      error_of(ErrorKind::unsupported, [&] { StableDiffusionPipeline::from_pretrained(checkpoint("sdxl", folder)); });
  EXPECT_NE(other.find("the caller opens it as StableDiffusionPipeline"), std::string::npos) << other;
}

}  // namespace lora
