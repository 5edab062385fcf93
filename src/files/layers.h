#pragma once
// A LoRA file layer by layer, and what a layer changes, before any model is opened.
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "dialects/spell.h"
#include "lora/loaders.h"

namespace lora {

struct LoraLayers {
  LoraStateDict file;
  std::vector<NamedModule> layers;  // the strengths among their tensors: an `alpha` wherever something says one
};

// A file or a folder that holds one. Throws as a load does where it holds no LoRA that can be read.
LoraLayers read_layers(const std::filesystem::path& source);

// "LoRA", "LoRA with biases", "LoRA with a Tucker core", "DoRA", "LoHa", "LoKr", "GLoRA", "IA3", "OFT", "BOFT", "full
// difference", "bias"; "… with DoRA"; "half a pair" where a factor is missing.
std::string kind_of(const NamedModule& layer);
// Whether what a layer of that kind changes depends on the weight that it is applied to.
bool depends_on_base(const std::string& kind);

// What a layer adds to its weight at strength 1, in float32: scale · B A, or `weight`, or both. A bias counts only
// where there is nothing else, a magnitude (DoRA) not at all.
struct LayerChange {
  Tensor A, B;  // [r, columns] and [rows, r]; undefined for none
  double scale = 0;
  Tensor weight;  // [rows, columns] or [n]; undefined for none
  int64_t rank = 0;
  double alpha = 0;

  bool empty() const { return !A.defined() && !weight.defined(); }
  Tensor dense() const;
  double norm() const;  // Frobenius
  double dot(const LayerChange& other) const;
};

// Of a kind that depends on the base, the rank and alpha alone. Throws Error{bad_shape} for sizes that do not go
// together.
LayerChange change_of(const NamedModule& layer);

}  // namespace lora
