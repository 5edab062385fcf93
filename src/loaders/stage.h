#pragma once
// A load before it happens: a file's layers as the parts of an adapter. Nothing of the pipeline changes, and all that
// can fail but for the state of the pipeline has happened.
#include "adapters/registry.h"
#include "lora/loaders.h"
#include "lora/lora_file.h"

namespace lora {

struct StagedLoad {
  AdapterParts parts;  // by the registry's components; nullptr where the file has nothing for one
  LoadReport report;
};

// Throws Error{bad_key} where nothing belongs to these components, and as prepare() does. `chosen`: the components to
// load into.
StagedLoad stage(const LoraFile& file, const AdapterRegistry& registry, const std::vector<size_t>& chosen);

}  // namespace lora
