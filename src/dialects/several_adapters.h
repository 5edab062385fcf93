#pragma once
// Files that hold more than one adapter, by mistake or not.
#include <map>
#include <string>
#include <vector>

#include "lora/lora_file.h"

namespace lora {

// The reason for a key whose numbers are not those of another key for the same tensor or layer.
inline constexpr const char* kDiffers =
    "it differs from {}, which names the same {}; a file must hold one adapter only";

// Tensors without numbers, on the device meta, are equal if their sizes are.
bool are_equal(const Tensor& a, const Tensor& b);

// For the index of a layer: the keys, by suffix, that name numbers of the layer once more.
using Repeats = std::map<size_t, std::map<std::string, std::string, std::less<>>>;

// Adds factors to `not_understood` that the file has twice, once with a strength and once without.
void add_repeats_without_strength(const std::vector<LoraLayer>& layers, const Repeats& repeats,
                                  std::vector<LoadReport::Unmatched>& not_understood);

// Takes up factors out of their layers whose down factors have other names in the file. They are halves of two
// adapters.
std::vector<LoadReport::Unmatched> take_strange_halves(std::vector<LoraLayer>& layers);

// The names of adapters inside PEFT's keys: "default" of "to_q.lora_A.default.weight". In alphabetical order.
std::vector<std::string> adapter_names(const StateDict& file);

}  // namespace lora
