#pragma once
// Keys that are not understood: which of them are parts of an adapter.
#include <vector>

#include "lora/lora_file.h"
#include "lora/state_dict.h"

namespace lora {

// Those of the keys without which the effect of the layers is not whole: a key that belongs to one of the layers, and a
// key that is named as adapters' tensors are. A tensor that belongs to a layer and changes nothing is none of them. Its
// reason in `not_understood` then says why it changes nothing. `file` has the keys. `layers`: what was understood.
std::vector<LoadReport::Unmatched> parts_of_adapters(std::vector<LoadReport::Unmatched>& not_understood,
                                                     const StateDict& file, const std::vector<LoraLayer>& layers);

}  // namespace lora
