#pragma once
// LoraScale into a weight for each site, checked.
#include "adapters/adapter.h"
#include "lora/adapters.h"

namespace lora {

// The weight of each site of `component`. `adapter` is the name in messages. Throws Error{usage} for a block or layer
// that the component does not have, with the names that it has; for a list of the wrong length; for a number that is
// not finite.
SiteWeights resolve(const LoraScale& scale, const std::string& component, const Parts& parts,
                    const std::string& adapter);

// The names at the top of a scale that are not in `known`.
std::vector<std::string> unknown_components(const LoraScale& scale, const std::vector<std::string>& known);

}  // namespace lora
