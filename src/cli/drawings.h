#pragma once
// The prompts of one run of the command, each with its LoRAs and its call.
#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "draw_arguments.h"
#include "lora/error.h"
#include "prompt_lines.h"

namespace lora::cli {

// The pictures of one prompt.
struct Drawing {
  PromptLine line;            // without tags
  std::vector<size_t> loras;  // those of all LoRAs that act on it
  CallOptions call;           // without seeds and adapters
  uint64_t seed;              // of its first picture

  bool has(size_t lora) const { return std::find(loras.begin(), loras.end(), lora) != loras.end(); }
  // Returns f(). An error names the line of the file.
  template <class F>
  auto named(F f) const {
    try {
      return f();
    } catch (const Error& error) {
      if (line.place.empty()) throw;
      throw Error(error.kind(), fmt::format("{}: {}", line.place, error.what()));
    }
  }
};

// Some of the pictures of a drawing, which one call draws.
struct PictureRange {
  int first, count;
};
// The call that draws these of the pictures of `call`.
CallOptions of_range(CallOptions call, PictureRange range);

// What to draw, `count` pictures of each prompt. `loras` has those of all pictures, and gets those of the prompts'
// tags. Throws what DrawArguments::call_options(), PromptArguments::lines() and take_lora_tags() throw.
std::vector<Drawing> drawings(const DrawArguments& arguments, int count, std::vector<LoraArgument>& loras);

}  // namespace lora::cli
