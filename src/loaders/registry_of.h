#pragma once
// A pipeline's adapters, for the library's own code: its public face does not show them.
#include "adapters/registry.h"
#include "lora/loaders.h"

namespace lora {

// Throw Error{usage} for a pipeline that was moved from.
AdapterRegistry& registry_of(LoraBaseMixin& mixin);
const AdapterRegistry& registry_of(const LoraBaseMixin& mixin);

// The layers of fused adapters that are not in the weights (FuseLoraOptions::max_loss), by the adapter's name.
std::map<std::string, LoraLayersByComponent> layers_beside_weights(const AdapterRegistry& registry,
                                                                   const AdapterState& state);

// Throws Error{not_found} for a name that is not loaded. The message lists the loaded ones.
void check_known(const AdapterState& state, const AdapterRegistry& registry, const std::vector<std::string>& names);

}  // namespace lora
