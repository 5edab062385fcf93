#include "pipelines/call_options.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <set>

#include "core/check.h"
#include "core/edge.h"
#include "core/utf8.h"
#include "io/public_call.h"
#include "nn/random.h"

namespace lora {

namespace {

// Counts the fields of an aggregate.
struct Anything {
  template <class T>
  operator T() const;
};
template <class T, class... Fields>
constexpr size_t fields_of() {
  if constexpr (requires { T{Fields{}..., Anything{}}; })
    return fields_of<T, Fields..., Anything>();
  else
    return sizeof...(Fields);
}

// Throws Error{usage} naming a number that is NaN or infinite.
void check_numbers(const CallOptions& o) {
  const std::pair<const char*, double> numbers[] = {
      {"guidance_scale", o.guidance_scale.value_or(0)},
      {"guidance_rescale", o.guidance_rescale},
      {"eta", o.eta},
      {"strength", o.strength.value_or(0)},
      {"denoising_start", o.denoising_start.value_or(0)},
      {"denoising_end", o.denoising_end.value_or(0)},
      {"aesthetic_score", o.aesthetic_score},
      {"negative_aesthetic_score", o.negative_aesthetic_score},
      {"micro_conditioning_aesthetic_score", o.micro_conditioning_aesthetic_score},
      {"temperature", o.temperature.first},
      {"temperature", o.temperature.second},
      {"mu", o.mu.value_or(0)},
      {"skip_layer_guidance_scale", o.skip_layer_guidance_scale},
      {"skip_layer_guidance_start", o.skip_layer_guidance_start},
      {"skip_layer_guidance_stop", o.skip_layer_guidance_stop},
      {"cross_attention_kwargs.scale", o.cross_attention_kwargs.scale},
      {"joint_attention_kwargs.scale", o.joint_attention_kwargs.scale},
  };
  for (auto [name, number] : numbers)
    check(std::isfinite(float(number)), ErrorKind::usage, "{} is {}. It must be a finite number", name, number);
}

}  // namespace

void check_taken(const CallOptions& o, const Taken& taken, const char* pipeline) {
  const CallOptions none;
  const std::pair<std::string_view, bool> given[] = {
      {"prompt_2", !o.prompt_2.empty()},
      {"prompt_3", !o.prompt_3.empty()},
      {"image", !o.image.empty()},
      {"mask_image", !o.mask_image.empty()},
      {"strength", o.strength.has_value()},
      {"denoising_start", o.denoising_start.has_value()},
      {"denoising_end", o.denoising_end.has_value()},
      {"negative_prompt_2", !o.negative_prompt_2.empty()},
      {"negative_prompt_3", !o.negative_prompt_3.empty()},
      {"eta", o.eta != none.eta},
      {"pooled_prompt_embeds", o.pooled_prompt_embeds.defined()},
      {"negative_pooled_prompt_embeds", o.negative_pooled_prompt_embeds.defined()},
      {"cross_attention_kwargs", o.cross_attention_kwargs.scale != 1},
      {"joint_attention_kwargs", o.joint_attention_kwargs.scale != 1},
      {"guidance_rescale", o.guidance_rescale != none.guidance_rescale},
      {"original_size", o.original_size.has_value()},
      {"crops_coords_top_left", o.crops_coords_top_left != none.crops_coords_top_left},
      {"target_size", o.target_size.has_value()},
      {"negative_original_size", o.negative_original_size.has_value()},
      {"negative_crops_coords_top_left", o.negative_crops_coords_top_left != none.negative_crops_coords_top_left},
      {"negative_target_size", o.negative_target_size.has_value()},
      {"aesthetic_score", o.aesthetic_score != none.aesthetic_score},
      {"negative_aesthetic_score", o.negative_aesthetic_score != none.negative_aesthetic_score},
      {"clip_skip", o.clip_skip.has_value()},
      {"max_sequence_length", o.max_sequence_length != none.max_sequence_length},
      {"skip_guidance_layers", !o.skip_guidance_layers.empty()},
      {"skip_layer_guidance_scale", o.skip_layer_guidance_scale != none.skip_layer_guidance_scale},
      {"skip_layer_guidance_stop", o.skip_layer_guidance_stop != none.skip_layer_guidance_stop},
      {"skip_layer_guidance_start", o.skip_layer_guidance_start != none.skip_layer_guidance_start},
      {"mu", o.mu.has_value()},
      {"micro_conditioning_aesthetic_score",
       o.micro_conditioning_aesthetic_score != none.micro_conditioning_aesthetic_score},
      {"micro_conditioning_crop_coord", o.micro_conditioning_crop_coord != none.micro_conditioning_crop_coord},
      {"temperature", o.temperature != none.temperature},
  };
  static_assert(fields_of<CallOptions>() == 52, "a new argument: add it here, and to check_numbers if it is a number");
  for (auto [name, is_given] : given)
    check(!is_given || taken.contains(name), ErrorKind::usage, "{} does not take {}. Leave it out", pipeline, name);
  check_numbers(o);
  check(o.num_images_per_prompt >= 1, ErrorKind::usage, "num_images_per_prompt is {}. It must be at least 1",
        o.num_images_per_prompt);
}

void note(const CallOptions& options, const std::string& text) {
  if (options.callback_on_note) callers([&] { options.callback_on_note(text); });
}

void note_unread(const CallOptions& options, const char* component, bool negative,
                 const std::vector<std::string>& texts, int64_t length,
                 const std::function<std::string(const std::string&)>& cut_off) {
  if (!options.callback_on_note) return;
  const char* what = negative ? "negative prompt" : "prompt";
  for (const auto& text : std::set(texts.begin(), texts.end())) {
    if (!is_utf8(text))
      note(options, fmt::format("the {} \"{}\" is not UTF-8. Its wrong bytes are read as U+FFFD", what, text));
    if (auto end = cut_off(text); !end.empty())
      note(options,
           fmt::format("{} reads {} tokens of the {}. It does not read the end: \"{}\"", component, length, what, end));
  }
}

void note_unguided(const CallOptions& options, double guidance_scale) {
  auto has_text = [](const Prompts& texts) {
    return std::any_of(texts.begin(), texts.end(), [](const auto& text) { return !text.empty(); });
  };
  if (has_text(options.negative_prompt) || has_text(options.negative_prompt_2) || has_text(options.negative_prompt_3) ||
      options.negative_prompt_embeds.defined())
    note(options, guidance_scale > 1
                      ? "the negative prompt has no effect, because this model was distilled for use without guidance"
                      : fmt::format("the negative prompt has no effect, because guidance_scale is {}. It acts above 1",
                                    guidance_scale));
  if (options.guidance_rescale != 0) note(options, "guidance_rescale has no effect, because the call has no guidance");
}

void check_scheduler(const DiffusionPipeline& pipe) {
  check(pipe.scheduler != nullptr, ErrorKind::usage, "the pipeline has no scheduler. Set its scheduler");
}

static void check_predicts(Predicts actual, Predicts predicts, const std::string& name, std::string_view pipeline) {
  const char* other = predicts == Predicts::noise  ? "one for noise, such as euler"
                      : predicts == Predicts::flow ? "flow_match_euler"
                                                   : "AmusedScheduler";
  check(actual == predicts, ErrorKind::usage, "scheduler is {}, which cannot draw with {}. Give {}", name, pipeline,
        other);
}

void check_scheduler_fits(const std::string& name, Predicts predicts, std::string_view pipeline) {
  check_predicts(predicted_for(name).value_or(predicts), predicts, name, pipeline);
}

void check_scheduler_fits(const Scheduler& scheduler, Predicts predicts, std::string_view pipeline) {
  check_predicts(predicted_for(scheduler), predicts, scheduler.class_name(), pipeline);
}

int64_t count_prompts(const Prompts& prompt, const CallOptions& options) {
  check(prompt.empty() == options.prompt_embeds.defined(), ErrorKind::usage,
        "the call has {}. Give either a prompt or prompt_embeds",
        prompt.empty() ? "neither a prompt nor prompt_embeds" : "both a prompt and prompt_embeds");
  if (!prompt.empty()) return int64_t(prompt.size());
  check_argument("prompt_embeds", options.prompt_embeds, at::kFloat, {-1, -1, -1});
  return options.prompt_embeds.size(0);
}

void check_argument(const char* name, const Tensor& t, Dtype like, at::IntArrayRef shape) {
  auto fits = [&](int64_t i) { return shape[size_t(i)] == -1 ? t.size(i) > 0 : t.size(i) == shape[size_t(i)]; };
  const bool integers = like == at::kLong;
  const bool right_numbers = integers ? t.scalar_type() == at::kLong : t.is_floating_point();
  const bool dense = t.layout() == at::kStrided && !t.is_meta();
  bool valid = right_numbers && dense && t.dim() == int64_t(shape.size());
  for (int64_t i = 0; valid && i < t.dim(); ++i) valid = fits(i);
  const char* layout = dense ? "dense" : t.is_meta() ? "meta" : "sparse";
  check(valid, ErrorKind::bad_shape,
        "{} is a {} tensor of {} with shape {}. It must be a dense tensor of {} with shape {}, where -1 is any size",
        name, layout, to_string(t.scalar_type()), c10::str(t.sizes()), integers ? "int64" : "floats", c10::str(shape));
}

TextEmbeddings given_embeddings(const CallOptions& o, bool negative, int64_t prompts, TextWidths widths) {
  const auto& embeds = negative ? o.negative_prompt_embeds : o.prompt_embeds;
  const auto& pooled = negative ? o.negative_pooled_prompt_embeds : o.pooled_prompt_embeds;
  const std::string name = negative ? "negative_prompt_embeds" : "prompt_embeds";
  const std::string pooled_name = negative ? "negative_pooled_prompt_embeds" : "pooled_prompt_embeds";
  check(embeds.defined() || !pooled.defined(), ErrorKind::usage, "{} is given without {}. Give both", pooled_name,
        name);
  if (!embeds.defined()) return {};
  check(!negative || o.negative_prompt.empty(), ErrorKind::usage,
        "the call has both a negative_prompt and negative_prompt_embeds. Give one of them");
  auto rows = [&](const Tensor& t) { return t.dim() > 0 && t.size(0) == 1 ? 1 : prompts; };
  check_argument(name.c_str(), embeds, at::kFloat, {rows(embeds), -1, widths.states});
  if (widths.pooled == 0) return {embeds, {}};
  check(pooled.defined(), ErrorKind::usage, "{} is given without {}. This model needs both", name, pooled_name);
  check_argument(pooled_name.c_str(), pooled, at::kFloat, {rows(pooled), widths.pooled});
  return {embeds, pooled};
}

std::vector<std::string> spread(const Prompts& texts, int64_t prompts, int64_t repeats, const char* name) {
  auto all = texts.values();
  if (all.size() == 1) all.resize(size_t(prompts), all.front());
  check(int64_t(all.size()) == prompts, ErrorKind::usage,
        "{} has {} texts for {} prompts. Give one for all prompts, or one for each", name, all.size(), prompts);
  std::vector<std::string> each;
  for (const auto& text : all) each.insert(each.end(), size_t(repeats), text);
  return each;
}

std::vector<std::string> spread_prompts(const Prompts& prompt) {
  check(!prompt.empty(), ErrorKind::usage, "prompt is empty. Give at least one text");
  return prompt.values();
}

std::vector<std::string> spread_prompts(const Prompts& texts, const std::vector<std::string>& first, const char* name) {
  return texts.empty() ? first : spread(texts, int64_t(first.size()), 1, name);
}

std::vector<at::Generator> generators(const OneOrMany<uint64_t>& seeds, int64_t images) {
  check(seeds.size() <= 1 || int64_t(seeds.size()) == images, ErrorKind::usage,
        "there are {} seeds for {} images. Give one seed for the whole batch, or one for each image", seeds.size(),
        images);
  if (seeds.empty()) return {make_generator(std::random_device()())};
  std::vector<at::Generator> all;
  for (auto seed : seeds) all.push_back(make_generator(seed));
  return all;
}

void report_step(const CallOptions& options, int step, int steps, const Tensor& timestep, Tensor& latents,
                 uint64_t snapshot) {
  if (!options.callback_on_step_end) return;
  const auto before = latents;
  const StepEnd end{step, steps, timestep, latents, snapshot};
  check(callers([&] { return options.callback_on_step_end(end); }), ErrorKind::cancelled,
        "cancelled after step {} of {}", step + 1, steps);
  if (latents.is_same(before)) return;
  check(latents.defined(), ErrorKind::usage, "callback_on_step_end left undefined latents. Leave a tensor");
  check_argument("callback_on_step_end's latents", latents, before.scalar_type(), before.sizes());
  latents = without_inference(latents.detach().to(before.device(), before.scalar_type()));
}

}  // namespace lora
