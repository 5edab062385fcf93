#pragma once
// The arguments of a call, checked and worked out: what every pipeline does with them in the same way.
#include <ATen/core/Generator.h>

#include <set>
#include <string_view>

#include "lora/pipeline.h"

namespace lora {

// The arguments that only some pipelines take.
using Taken = std::set<std::string_view>;

// Throws Error{usage} naming an argument that is given and not among those `taken`.
void check_taken(const CallOptions& options, const Taken& taken, const char* pipeline);

// The number of prompts; of texts or of embeddings. Throws Error{usage} unless exactly one of the two is given.
int64_t count_prompts(const Prompts& prompt, const CallOptions& options);

// `texts` for `prompts` prompts, each `repeats` times in a row: one for all or one each; `otherwise` where there is
// none. Throws Error{usage} for another number.
std::vector<std::string> spread(const Prompts& texts, const std::vector<std::string>& otherwise, int64_t prompts,
                                int64_t repeats, const char* name);

std::vector<at::Generator> generators(const std::vector<uint64_t>& seeds, int64_t images);

// Throws Error{cancelled} where the callback says so.
void report_step(const CallOptions& options, int step, int steps, const Tensor& timestep, Tensor& latents,
                 uint64_t snapshot);

}  // namespace lora
