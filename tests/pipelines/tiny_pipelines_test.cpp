// Every pipeline, from prompt to latents and pixels, against diffusers (tools/reference/make_tiny_pipelines.py).
#include "pipelines/tiny_pipelines.h"

namespace lora {

namespace {

using nlohmann::json;

const StateDict& expected() {
  static const auto tensors = load_state_dict(test_data() / "pipelines" / "tiny.safetensors");
  return tensors;
}

Prompts prompts(const json& value) {
  Prompts all;
  for (const auto& text : value.is_array() ? value : json::array({value})) all.push_back(text);
  return all;
}

// White in the middle half of its columns, or inside `white`.
Image mask(const json& size, const json& white) {
  int height = size[0], width = size[1];
  Image image{width, height, std::vector<uint8_t>(size_t(height * width * 3)), {}};
  const json box = white.is_null() ? json{0, width / 4, height, width - width / 4} : white;
  for (int y = box[0]; y < box[2]; ++y)
    for (int x = box[1]; x < box[3]; ++x)
      for (int c = 0; c < 3; ++c) image.pixels[size_t((y * width + x) * 3 + c)] = 255;
  return image;
}

template <class T>
void read(const json& row, const char* name, T& option) {
  if (row.contains(name)) option = row[name].get<T>();
}
template <class T>
void read(const json& row, const char* name, std::optional<T>& option) {
  if (row.contains(name)) option = row[name].get<T>();
}
void read(const json& row, const char* name, Prompts& option) {
  if (row.contains(name)) option = prompts(row[name]);
}

CallOptions options_of(const json& row) {
  CallOptions o;
  read(row, "prompt_2", o.prompt_2);
  read(row, "prompt_3", o.prompt_3);
  read(row, "negative_prompt", o.negative_prompt);
  read(row, "negative_prompt_2", o.negative_prompt_2);
  read(row, "negative_prompt_3", o.negative_prompt_3);
  read(row, "num_inference_steps", o.num_inference_steps);
  read(row, "guidance_scale", o.guidance_scale);
  read(row, "guidance_rescale", o.guidance_rescale);
  read(row, "num_images_per_prompt", o.num_images_per_prompt);
  read(row, "clip_skip", o.clip_skip);
  read(row, "max_sequence_length", o.max_sequence_length);
  read(row, "strength", o.strength);
  read(row, "eta", o.eta);
  read(row, "padding_mask_crop", o.padding_mask_crop);
  read(row, "invert_mask", o.invert_mask);
  read(row, "blur_factor", o.blur_factor);
  read(row, "apply_overlay", o.apply_overlay);
  read(row, "original_size", o.original_size);
  read(row, "target_size", o.target_size);
  read(row, "negative_original_size", o.negative_original_size);
  read(row, "negative_target_size", o.negative_target_size);
  read(row, "crops_coords_top_left", o.crops_coords_top_left);
  read(row, "negative_crops_coords_top_left", o.negative_crops_coords_top_left);
  read(row, "aesthetic_score", o.aesthetic_score);
  read(row, "negative_aesthetic_score", o.negative_aesthetic_score);
  read(row, "denoising_start", o.denoising_start);
  read(row, "denoising_end", o.denoising_end);
  read(row, "skip_guidance_layers", o.skip_guidance_layers);
  read(row, "skip_layer_guidance_stop", o.skip_layer_guidance_stop);
  read(row, "micro_conditioning_aesthetic_score", o.micro_conditioning_aesthetic_score);
  read(row, "micro_conditioning_crop_coord", o.micro_conditioning_crop_coord);
  read(row, "temperature", o.temperature);
  if (row["seed"].is_array())
    o.seed = row["seed"].get<std::vector<uint64_t>>();
  else
    o.seed = {row["seed"].get<uint64_t>()};
  if (row.contains("size")) o.height = row["size"][0], o.width = row["size"][1];
  if (row.contains("image")) o.image = {tiny::picture(row["name"], row["image"])};
  if (row.contains("mask")) o.mask_image = {mask(row["mask"], row.value("white", json()))};
  if (row.contains("latents")) o.latents = expected().at(row["latents"].get<std::string>() + ".latents");
  bool joint = row["pipeline"].get<std::string>().starts_with("sd3");
  (joint ? o.joint_attention_kwargs : o.cross_attention_kwargs).scale = row.value("scale", 1.0);
  return o;
}

void load_adapters(DiffusionPipeline& pipe, const json& row) {
  std::vector<std::string> names;
  std::vector<LoraScale> weights;
  for (const auto& a : row["adapters"]) {
    pipe.load_lora_weights(tiny::factors(pipe, a["name"], a["targets"], a["rank"]),
                           {.adapter_name = a["name"], .strict = true});
    names.push_back(a["name"]);
    weights.push_back(a["weight"].get<double>());
  }
  pipe.set_adapters(names, weights);
  if (row.value("fused", false)) pipe.fuse_lora();
}

int largest_difference(const Image& image, const Tensor& wanted) {
  auto pixels = wanted.contiguous();
  EXPECT_EQ(int64_t(image.pixels.size()), pixels.numel());
  int largest = 0;
  for (size_t k = 0; k < image.pixels.size(); ++k)
    largest = std::max(largest, std::abs(int(image.pixels[k]) - int(pixels.data_ptr<uint8_t>()[k])));
  return largest;
}

}  // namespace

class TinyPipelines : public testing::TestWithParam<std::string> {};

TEST_P(TinyPipelines, DrawWhatDiffusersDraws) {
  auto pipe = tiny::open(GetParam());
  auto own_scheduler = pipe->scheduler;
  for (const auto& row : tiny::table()["cases"]) {
    if (row["pipeline"] != GetParam()) continue;
    std::string name = row["name"];
    SCOPED_TRACE(name);
    pipe->scheduler = own_scheduler;
    if (row.contains("scheduler")) {
      auto config = json::parse(own_scheduler->config());
      config.update(row["scheduler"]["config"]);
      // Values of the case are not defaults, so another class must keep them.
      auto& defaults = config["_use_default_values"];
      for (const auto& [field, value] : row["scheduler"]["config"].items())
        defaults.erase(std::remove(defaults.begin(), defaults.end(), field), defaults.end());
      pipe->scheduler = Scheduler::from_config(config.dump(), row["scheduler"]["class"]);
    }
    if (row.contains("adapters")) load_adapters(*pipe, row);
    auto latents = pipe->generate_latents(prompts(row.value("prompt", json("red apple"))), options_of(row));
    auto wanted = expected().at(name + ".latents");
    // Pillow's resampling and torch's round one pixel in ten thousand differently.
    bool resized = name.find("another size") != std::string::npos || row.contains("padding_mask_crop");
    if (wanted.scalar_type() == at::kLong)
      EXPECT_TRUE(at::equal(latents, wanted)) << (latents != wanted).sum().item<int64_t>();
    else
      EXPECT_LE(distance(latents, wanted), resized ? 2e-3 : 1e-4);
    if (expected().contains(name + ".images")) {
      auto pictures = expected().at(name + ".images");
      auto images = row.contains("mask") ? (*pipe)(prompts("red apple"), options_of(row))
                                         : pipe->decode_latents(latents.slice(0, 0, 1));
      for (int64_t i = 0; i < pictures.size(0); ++i) EXPECT_LE(largest_difference(images[size_t(i)], pictures[i]), 1);
    }
    pipe->unfuse_lora();
    pipe->unload_lora_weights();
  }
}

INSTANTIATE_TEST_SUITE_P(All, TinyPipelines, testing::ValuesIn(tiny::names()), tiny::test_name);

}  // namespace lora
