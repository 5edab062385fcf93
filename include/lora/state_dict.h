#pragma once
// Named tensors with the text metadata of their file.
#include <filesystem>
#include <map>
#include <string>
#include <unordered_map>
#include <vector>

#include "lora/tensor.h"

namespace lora {

// Tensors in the order of the file. Look-up by name is O(1) and exact. Threads: const calls may run on several threads
// at once; a call that changes it, alone.
class StateDict {
 public:
  using Item = std::pair<std::string, Tensor>;

  StateDict() = default;
  StateDict(std::initializer_list<Item> items);

  // Adds or replaces.
  void set(const std::string& name, Tensor tensor);
  // The tensor, or nullptr where there is none of that name.
  const Tensor* find(const std::string& name) const;
  // Throws Error{bad_key} naming the nearest key where there is none of that name.
  const Tensor& at(const std::string& name) const;
  bool contains(const std::string& name) const { return find(name) != nullptr; }

  size_t size() const { return items_.size(); }
  bool empty() const { return items_.empty(); }
  auto begin() const { return items_.begin(); }
  auto end() const { return items_.end(); }

  // What the file says about itself (safetensors' __metadata__).
  std::map<std::string, std::string> metadata;

 private:
  std::vector<Item> items_;
  std::unordered_map<std::string, size_t> index_;
};

// The tensors of one layer, by the ends of their names: "lora_A.weight", …
using LayerTensors = std::map<std::string, Tensor, std::less<>>;

// Reads a tensor file by its content, never by its extension alone: safetensors, torch's zip or older pickle layout,
// or `*.index.json` of a sharded checkpoint. Nothing in a file is ever executed. Tensors of a safetensors file or of an
// uncompressed zip alias a private mapping of it (MAP_PRIVATE): no bytes are read until they are used, and writing to
// such a tensor changes this process's copy alone, never the file. Throws Error{not_found, bad_file, unsupported}.
StateDict load_state_dict(const std::filesystem::path& file);

// Writes a safetensors file: to a temporary sibling, synced, then renamed over `file`, so that no partial file is ever
// visible and tensors mapped from the old file survive. Tensors may live on any device. Order: by descending
// alignment, then by name, as the reference writer does. Throws Error{io}.
void save_safetensors(const StateDict& tensors, const std::filesystem::path& file);

// The same as a torch zip pickle that torch.load(weights_only=True) reads: a dict of tensors. No metadata.
void save_pickle(const StateDict& tensors, const std::filesystem::path& file);

}  // namespace lora
