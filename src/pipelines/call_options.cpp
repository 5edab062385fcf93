#include "pipelines/call_options.h"

#include <ATen/ATen.h>

#include <random>

#include "core/check.h"
#include "core/edge.h"
#include "core/text.h"
#include "nn/random.h"

namespace lora {

void check_taken(const CallOptions& o, const Taken& taken, const char* pipeline) {
  const CallOptions none;
  const std::pair<std::string_view, bool> given[] = {
      {"prompt_2", !o.prompt_2.empty()},
      {"prompt_3", !o.prompt_3.empty()},
      {"negative_prompt_2", !o.negative_prompt_2.empty()},
      {"negative_prompt_3", !o.negative_prompt_3.empty()},
      {"guidance_rescale", o.guidance_rescale != none.guidance_rescale},
      {"eta", o.eta != none.eta},
      {"clip_skip", o.clip_skip.has_value()},
      {"max_sequence_length", o.max_sequence_length != none.max_sequence_length},
      {"pooled_prompt_embeds", o.pooled_prompt_embeds.defined()},
      {"negative_pooled_prompt_embeds", o.negative_pooled_prompt_embeds.defined()},
      {"image", !o.image.empty()},
      {"strength", o.strength.has_value()},
      {"mask_image", !o.mask_image.empty()},
      {"original_size", o.original_size.has_value()},
      {"target_size", o.target_size.has_value()},
      {"negative_original_size", o.negative_original_size.has_value()},
      {"negative_target_size", o.negative_target_size.has_value()},
      {"crops_coords_top_left", o.crops_coords_top_left != none.crops_coords_top_left},
      {"negative_crops_coords_top_left", o.negative_crops_coords_top_left != none.negative_crops_coords_top_left},
      {"aesthetic_score", o.aesthetic_score != none.aesthetic_score},
      {"negative_aesthetic_score", o.negative_aesthetic_score != none.negative_aesthetic_score},
      {"denoising_start", o.denoising_start.has_value()},
      {"denoising_end", o.denoising_end.has_value()},
      {"skip_guidance_layers", !o.skip_guidance_layers.empty()},
      {"skip_layer_guidance_scale", o.skip_layer_guidance_scale != none.skip_layer_guidance_scale},
      {"skip_layer_guidance_start", o.skip_layer_guidance_start != none.skip_layer_guidance_start},
      {"skip_layer_guidance_stop", o.skip_layer_guidance_stop != none.skip_layer_guidance_stop},
      {"mu", o.mu.has_value()},
      {"micro_conditioning_aesthetic_score",
       o.micro_conditioning_aesthetic_score != none.micro_conditioning_aesthetic_score},
      {"micro_conditioning_crop_coord", o.micro_conditioning_crop_coord != none.micro_conditioning_crop_coord},
      {"temperature", o.temperature != none.temperature},
      {"cross_attention_kwargs", o.cross_attention_kwargs.scale != 1},
      {"joint_attention_kwargs", o.joint_attention_kwargs.scale != 1},
  };
  for (auto [name, is_given] : given)
    check(!is_given || taken.contains(name), ErrorKind::usage, "{} does not take {}; leave it out", pipeline, name);
  check(o.num_images_per_prompt >= 1, ErrorKind::usage, "num_images_per_prompt is {}; it must be at least 1",
        o.num_images_per_prompt);
  check(std::isfinite(o.guidance_scale.value_or(0)), ErrorKind::usage, "guidance_scale is {}; it must be a number",
        o.guidance_scale.value_or(0));
}

int64_t count_prompts(const Prompts& prompt, const CallOptions& options) {
  check(prompt.empty() == options.prompt_embeds.defined(), ErrorKind::usage,
        "give either a prompt or prompt_embeds, not {}", prompt.empty() ? "neither" : "both");
  return prompt.empty() ? options.prompt_embeds.size(0) : int64_t(prompt.size());
}

std::vector<std::string> spread(const Prompts& texts, const std::vector<std::string>& otherwise, int64_t prompts,
                                int64_t repeats, const char* name) {
  std::vector<std::string> all = texts;
  if (all.empty()) all = otherwise;
  if (all.size() == 1) all.resize(size_t(prompts), all.front());
  check(int64_t(all.size()) == prompts, ErrorKind::usage, "{} {} for {} prompts; give one for all, or one each",
        all.size(), replace_all(name, "_prompt", " prompt") + "s", prompts);
  std::vector<std::string> each;
  for (const auto& text : all) each.insert(each.end(), size_t(repeats), text);
  return each;
}

std::vector<at::Generator> generators(const std::vector<uint64_t>& seeds, int64_t images) {
  check(seeds.size() <= 1 || int64_t(seeds.size()) == images, ErrorKind::usage,
        "{} seeds for {} images; give one for all, or one an image", seeds.size(), images);
  if (seeds.empty()) return {make_generator(std::random_device()())};
  std::vector<at::Generator> all;
  for (auto seed : seeds) all.push_back(make_generator(seed));
  return all;
}

void report_step(const CallOptions& options, int step, int steps, const Tensor& timestep, Tensor& latents,
                 uint64_t snapshot) {
  if (!options.callback_on_step_end) return;
  const StepEnd end{step, steps, timestep, latents, snapshot};
  check(callers([&] { return options.callback_on_step_end(end); }), ErrorKind::cancelled,
        "cancelled after step {} of {}", step + 1, steps);
}

}  // namespace lora
