#pragma once
// The arguments of a call: their checks, and what every pipeline does with them in the same way.
#include <ATen/core/Generator.h>

#include <set>
#include <string_view>

#include "lora/latent_diffusion.h"
#include "schedulers/registry.h"

namespace lora {

// Of the arguments that only some pipelines take, those of one pipeline.
using Taken = std::set<std::string_view>;

// Throws Error{usage} naming an argument that is given but not `taken`, or a number that is NaN or infinite.
void check_taken(const CallOptions& options, const Taken& taken, const char* pipeline);

// Tells the caller something of the call.
void note(const CallOptions& options, const std::string& text);

// Notes what of some prompts, or negative prompts, a text encoder does not read. `cut_off` gives the end of a text that
// is beyond the `length` tokens.
void note_unread(const CallOptions& options, const char* component, bool negative,
                 const std::vector<std::string>& texts, int64_t length,
                 const std::function<std::string(const std::string&)>& cut_off);

// Notes a negative prompt that has no effect, because the call is without guidance.
void note_unguided(const CallOptions& options, double guidance_scale);

// Throws Error{usage} where the pipeline does not have a scheduler.
void check_scheduler(const DiffusionPipeline& pipe);

// Throws Error{usage} where a scheduler is for models that predict something else. `name` is a class or a short name.
void check_scheduler_fits(const std::string& name, Predicts predicts, std::string_view pipeline);
// The same for a scheduler with its config.
void check_scheduler_fits(const Scheduler& scheduler, Predicts predicts, std::string_view pipeline);

// The number of prompts, or of rows of prompt_embeds. Throws Error{usage} unless exactly one of the two is given.
int64_t count_prompts(const Prompts& prompt, const CallOptions& options);

// Throws Error{bad_shape} with the argument's name unless a tensor is dense, has that shape, and has int64 numbers
// where `like` is int64 or else floats. In a shape, -1 stands for any size of 1 or more.
void check_argument(const char* name, const Tensor& t, Dtype like, at::IntArrayRef shape);

// The widths of the text embeddings that a denoiser takes.
struct TextWidths {
  int64_t states = 0, pooled = 0;  // 0: it does not take them
};

// The embeddings that a call gives in place of its prompts or negative prompts: one row for all, or one for each.
// Undefined where the call does not give any. Throws Error{usage, bad_shape} with the argument's name.
TextEmbeddings given_embeddings(const CallOptions& options, bool negative, int64_t prompts, TextWidths widths);

// One text for each prompt, `repeats` times in a row. `texts` has one for all prompts, or one for each. Throws
// Error{usage} for another number, with the argument's `name`.
std::vector<std::string> spread(const Prompts& texts, int64_t prompts, int64_t repeats, const char* name);

// The texts of encode_prompt() for its first text encoder. Throws Error{usage} where there is no text.
std::vector<std::string> spread_prompts(const Prompts& prompt);
// The texts for another encoder: one for each of the `first`, which stand in where `texts` is empty.
std::vector<std::string> spread_prompts(const Prompts& texts, const std::vector<std::string>& first, const char* name);

std::vector<at::Generator> generators(const OneOrMany<uint64_t>& seeds, int64_t images);

// Calls the callback. Throws Error{cancelled} where it returns false, Error{usage, bad_shape} where it leaves latents
// that do not fit.
void report_step(const CallOptions& options, int step, int steps, const Tensor& timestep, Tensor& latents,
                 uint64_t snapshot);

}  // namespace lora
