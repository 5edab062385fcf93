#pragma once
// What is odd about the layers of a LoRA.
#include "files/published_models.h"
#include "lora/files.h"

namespace lora {

// `published`: by component, what its layers are for; a component that is not known has no row.
std::vector<Inspection::Finding> check_layers(const std::vector<Inspection::Layer>& layers,
                                              const std::map<std::string, PublishedComponent>& published);

// Whether a published layer is one that this layer can be for.
bool fits(const Inspection::Layer& layer, const PublishedLayer& published);

}  // namespace lora
