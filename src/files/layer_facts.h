#pragma once
// What the names and sizes in a LoRA file tell. Nothing here reads the numbers of a tensor.
#include "files/published_models.h"
#include "lora/files.h"

namespace lora {

// A layer without its alpha, its norm, and errors about them.
Inspection::Layer described(const LoraLayer& layer);
// "DoRA", "LoRA with biases + full difference", …: most layers first.
std::string algorithm_of(const std::vector<Inspection::Layer>& layers);
// The program that wrote the file; "" where nothing tells it.
std::string trainer_of(const LoraFile& file);

// By component, the published model that has most of these layers at their sizes. A component that is not known has no
// row. Valid as long as `models`.
using PublishedByComponent = std::map<std::string, const PublishedComponent*>;
PublishedByComponent published_for(const std::vector<Inspection::Layer>& layers, BaseModel base_model,
                                   PublishedModels& models);

}  // namespace lora
