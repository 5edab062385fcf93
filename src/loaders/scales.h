#pragma once
// LoraScale into a weight for each site, checked.
#include "adapters/adapter.h"
#include "lora/adapters.h"

namespace lora {

// `component`'s part of a scale. Throws Error{usage} for a block or layer that the component has not, with the names
// that it has, for a list of the wrong length, and for what is no finite number.
SiteWeights resolve(const LoraScale& scale, const std::string& component, const Parts& parts);

// Names at the top of a scale that are no components of those known.
std::vector<std::string> unknown_components(const LoraScale& scale, const std::vector<std::string>& known);

}  // namespace lora
