#pragma once
// The axes of `lora grid`: what differs between its columns, and between its rows.
#include <fmt/format.h>

#include <string>
#include <vector>

#include "draw_arguments.h"
#include "lora/error.h"

namespace lora::cli {

// One axis: `NAME: VALUE, VALUE, …`, or `NAME: VALUE | VALUE` for values that have commas. The names:
//   prompt          the prompt; `|` separates its values
//   seed, steps, cfg, scheduler
//   lora            a LoRA as --lora takes it, beside those of --lora; `none` is no LoRA
//   weight FILE     the weight of that LoRA, as --lora takes it
//   weight          the weight of the other axis' LoRAs
// Seeds, steps, cfg and weights also take ranges, of which both ends are values where the step allows it:
//   A-B             in steps of 1
//   A-B:STEP
//   A-B [COUNT]     COUNT values
class GridAxis {
 public:
  enum class Kind { prompt, seed, steps, cfg, scheduler, lora, weight };

  // `option` is --x or --y, for messages. Throws Error{usage} that names the axis and the value that is not understood.
  GridAxis(std::string option, const std::string& text);

  const std::string& option() const { return option_; }
  Kind kind() const { return kind_; }
  const std::string& file() const { return file_; }                   // of a weight; may be empty
  const std::vector<std::string>& values() const { return values_; }  // ranges are spelled out, random seeds drawn
  std::string name() const;                                           // "weight ink.safetensors"
  std::string label(size_t value) const;                              // for people

  // Sets what the axis sets. `arguments` is a copy of `base`, in which the other axis may have set its part: of `lora`
  // and `weight`, `lora` sets first.
  void set(size_t value, const DrawArguments& base, DrawArguments& arguments) const;

  // Returns f(). An error names the axis and the value.
  template <class F>
  auto named(size_t value, F f) const {
    try {
      return f();
    } catch (const Error& error) {
      throw Error(error.kind(), fmt::format("{} {}: {}: {}", option_, name(), values_[value], error.what()));
    }
  }

 private:
  std::string option_, file_;
  Kind kind_ = Kind::prompt;
  std::vector<std::string> values_;

  void check_value(size_t value);
};

// Throws Error{usage} where two axes, or an axis and an option, set the same thing, and where a weight has no LoRA.
void check_axes(const std::vector<GridAxis>& axes, const DrawArguments& base);

}  // namespace lora::cli
