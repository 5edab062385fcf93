#pragma once
// A file that was written, read again and compared with the layers that it was made of.
#include <functional>

#include "dialects/spell.h"
#include "lora/lora_file.h"

namespace lora {

struct ReadBackOptions {
  Target target;
  // How far a layer may be from what it was, relative to its size: what its dtype or its approximation cost. By name.
  std::function<double(const std::string& layer)> tolerance;
  std::function<void()> after_layer;  // for memory: gives pages back
};

// Compares the effects: the product of factors on the factored form, all other tensors number by number. Throws
// Error{unsupported} with the first layers that differ, that are missing, or that the file did not have before, and
// with keys that nobody understands.
void check_read_back(const LoraFile& written, const LoraFile& source, const ReadBackOptions& options);

}  // namespace lora
