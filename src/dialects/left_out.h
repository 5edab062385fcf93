#pragma once
// Keys that are not understood: which of them are parts of an adapter.
#include <vector>

#include "lora/lora_file.h"

namespace lora {

// Those of the keys without which the effect of the layers is not whole: a key that belongs to one of the layers, and a
// key that is named as adapters' tensors are. `layers`: what was understood, with the file's keys.
std::vector<LoadReport::Unmatched> parts_of_adapters(const std::vector<LoadReport::Unmatched>& not_understood,
                                                     const std::vector<LoraLayer>& layers);

}  // namespace lora
