#pragma once
// The picture and the mask that `generate` starts from.
#include <CLI/CLI.hpp>
#include <optional>
#include <string>

#include "lora/call_options.h"

namespace lora::cli {

struct PictureArguments {
  std::string image, mask;
  std::optional<double> strength;
  std::optional<bool> keep_unmasked;  // without a value: with a mask
  std::optional<int> mask_blur;       // without a value: kMaskBlur with a mask
  std::optional<int> only_masked;
  bool mask_invert = false;

  static constexpr int kMaskBlur = 2;

  void declare(CLI::App& command);
  // Reads the files, and sets the options of a call. Where the image has transparent pixels and there is no mask, its
  // transparency is the mask, which is noted. Throws Error{usage} for options that do not go together.
  void set(CallOptions& call) const;
};

}  // namespace lora::cli
