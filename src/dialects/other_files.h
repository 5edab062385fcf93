#pragma once
#include <string>

#include "lora/state_dict.h"

namespace lora {

// What a file without an adapter looks like: "it looks like a whole checkpoint (it has …)", or its first key.
std::string looks_like(const StateDict& file);

}  // namespace lora
