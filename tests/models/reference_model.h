#pragma once
// Numbers that tests make as tools/reference/tiny.py does: from names alone.
#include <ATen/ATen.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "lora/state_dict.h"

namespace lora::reference {

using nlohmann::json;

inline std::filesystem::path data(const std::string& name) {
  return std::filesystem::path(LORA_SOURCE_DIR) / "tests/data/models" / name;
}

inline json read(const std::string& name) { return json::parse(std::ifstream(data(name))); }

// Uniform in [-1, 1), the same on every machine.
inline Tensor noise(const std::string& name, at::IntArrayRef shape) {
  uint64_t hash = 0xcbf29ce484222325;
  for (unsigned char c : name) hash = (hash ^ c) * 0x100000001b3;
  hash ^= hash >> 32;

  auto result = at::empty(shape, at::kDouble);
  auto* out = result.data_ptr<double>();
  for (int64_t i = 0; i < result.numel(); ++i) {
    auto x = static_cast<uint32_t>(i * 0x9e3779b9 + hash);
    x = (x ^ (x >> 16)) * 0x85ebca6b;
    x = (x ^ (x >> 13)) * 0xc2b2ae35;
    out[i] = (x ^ (x >> 16)) / 2147483648.0 - 1;
  }
  return result;
}

inline Tensor input(const std::string& name, at::IntArrayRef shape) {
  return (noise(name, shape) * 1.7).to(at::kFloat);
}

inline Tensor tokens(const std::string& name, at::IntArrayRef shape, int64_t count) {
  return ((noise(name, shape) + 1) / 2 * count).to(at::kLong);
}

inline Tensor weight(const std::string& name, at::IntArrayRef shape) {
  auto u = noise(name, shape);
  if (shape.size() > 1) return (u * std::sqrt(3.0 / (u.numel() / shape[0]))).to(at::kFloat);
  return (name.ends_with("weight") ? 1 + 0.3 * u : 0.3 * u).to(at::kFloat);
}

using Make = Tensor (*)(const std::string& name, at::IntArrayRef shape);

// The tensors of a tree of layers, each [weight shape] or [weight shape, bias shape], and of parameters of other names,
// each its shape.
inline void add_tensors(const json& tree, const std::string& path, Make make, StateDict& tensors) {
  for (const auto& [name, node] : tree.items()) {
    auto inner = path.empty() ? name : path + "." + name;
    if (node.is_object()) {
      add_tensors(node, inner, make, tensors);
      continue;
    }
    if (node[0].is_number()) {
      tensors.set(inner, make(inner, node.get<std::vector<int64_t>>()));
      continue;
    }
    const char* kinds[] = {".weight", ".bias"};
    for (size_t i = 0; i < node.size(); ++i)
      tensors.set(inner + kinds[i], make(inner + kinds[i], node[i].get<std::vector<int64_t>>()));
  }
}

inline StateDict tensors_of(const json& tree, Make make = weight) {
  StateDict tensors;
  add_tensors(tree, "", make, tensors);
  return tensors;
}

// A tensor that has a shape and no memory.
inline Tensor meta(const std::string&, at::IntArrayRef shape) {
  return at::empty(shape, at::TensorOptions(at::kMeta).dtype(at::kFloat));
}

}  // namespace lora::reference
