#pragma once
// What is odd about the layers of a LoRA.
#include "files/layer_facts.h"
#include "lora/files.h"

namespace lora {

std::vector<Inspection::Finding> check_layers(const std::vector<Inspection::Layer>& layers,
                                              const PublishedByComponent& published);
// The part of it that needs no numbers, without remarks: halves of pairs, and layers that the models do not have.
std::vector<Inspection::Finding> check_sizes(const std::vector<Inspection::Layer>& layers,
                                             const PublishedByComponent& published);
// Whether the layers are for another base model than the metadata says.
std::optional<Inspection::Finding> check_metadata(const LoraFile& file);

// Whether a published layer is one that this layer can be for.
bool fits(const Inspection::Layer& layer, const PublishedLayer& published);

}  // namespace lora
