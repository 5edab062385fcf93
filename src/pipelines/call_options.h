#pragma once
// The arguments of a call, checked and worked out: what every pipeline does with them in the same way.
#include <ATen/core/Generator.h>

#include <set>
#include <string_view>

#include "lora/latent_diffusion.h"

namespace lora {

// The arguments that only some pipelines take.
using Taken = std::set<std::string_view>;

// Throws Error{usage} naming an argument that is given and not among those `taken`, or a number that is none.
void check_taken(const CallOptions& options, const Taken& taken, const char* pipeline);

// The number of prompts; of texts or of embeddings. Throws Error{usage} unless exactly one of the two is given.
int64_t count_prompts(const Prompts& prompt, const CallOptions& options);

// Throws Error{bad_shape}, with the argument's name, unless a tensor that a call is given is dense, of that kind of
// numbers and of that shape, where -1 is any size of 1 or more.
void check_argument(const char* name, const Tensor& t, Dtype like, at::IntArrayRef shape);

// The widths of what a denoiser is told of a text.
struct TextWidths {
  int64_t states = 0, pooled = 0;  // 0: it takes none
};

// The embeddings that a call gives in place of its prompts or negative prompts, one for all prompts or one each;
// checked, and as they are given. Undefined where it gives none. Throws Error{usage, bad_shape} naming the argument.
TextEmbeddings given_embeddings(const CallOptions& options, bool negative, int64_t prompts, TextWidths widths);

// `texts` for `prompts` prompts, each `repeats` times in a row: one for all or one each; `otherwise` where there is
// none. Throws Error{usage} for another number.
std::vector<std::string> spread(const Prompts& texts, const std::vector<std::string>& otherwise, int64_t prompts,
                                int64_t repeats, const char* name);

// What encode_prompt() is given: at least one text. Another encoder's, one for all or one each; the first's for none.
std::vector<std::string> spread_prompts(const Prompts& prompt);
std::vector<std::string> spread_prompts(const Prompts& texts, const std::vector<std::string>& first, const char* name);

std::vector<at::Generator> generators(const std::vector<uint64_t>& seeds, int64_t images);

// Throws Error{cancelled} where the callback says so, Error{usage} where it leaves latents that are none.
void report_step(const CallOptions& options, int step, int steps, const Tensor& timestep, Tensor& latents,
                 uint64_t snapshot);

}  // namespace lora
