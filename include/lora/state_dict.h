#pragma once
// Named tensors, and the text metadata of their file.
#include <filesystem>
#include <map>
#include <string>
#include <unordered_map>
#include <vector>

#include "lora/tensor.h"

namespace lora {

// Tensors in the order of the file. Look-up by name is exact and takes constant time. Threads: several threads may make
// const calls at the same time. No other call may run during a call that changes the object.
class StateDict {
 public:
  using Item = std::pair<std::string, Tensor>;

  StateDict() = default;
  StateDict(std::initializer_list<Item> items);

  // Adds the tensor, or replaces the one of that name in its place.
  void set(const std::string& name, Tensor tensor);
  // The tensor of that name, or nullptr.
  const Tensor* find(const std::string& name) const;
  // The tensor of that name. Throws Error{bad_key} if it does not exist; the message gives the nearest name.
  const Tensor& at(const std::string& name) const;
  bool contains(const std::string& name) const { return find(name) != nullptr; }

  size_t size() const { return items_.size(); }
  bool empty() const { return items_.empty(); }
  auto begin() const { return items_.begin(); }
  auto end() const { return items_.end(); }

  // The file's text about itself (safetensors' __metadata__).
  std::map<std::string, std::string> metadata;

 private:
  std::vector<Item> items_;
  std::unordered_map<std::string, size_t> index_;
};

// The tensors of one layer. Keys are the last parts of the tensors' names: "lora_A.weight", …
using LayerTensors = std::map<std::string, Tensor, std::less<>>;

// Reads a tensor file: safetensors, torch's zip layout, torch's older pickle layout, or the `*.index.json` of a sharded
// checkpoint. The content decides which, not the extension. Never executes anything from a file.
//
// Tensors of a safetensors file or of an uncompressed zip alias a private mapping of the file (MAP_PRIVATE). Bytes are
// read when they are first used. Writing to such a tensor changes only this process's copy, never the file. Throws
// Error{not_found, bad_file, unsupported, io}.
StateDict load_state_dict(const std::filesystem::path& file);

// Writes a safetensors file. Writes a temporary file beside it, syncs that, then renames it to `file`: a partial file
// is never visible, and tensors that are mapped from the old file stay valid. Tensors may be on any device. Their order
// is that of the reference writer: by descending alignment, then by name. Throws Error{io}, and Error{usage,
// unsupported} for tensors that the format cannot hold.
void save_safetensors(const StateDict& tensors, const std::filesystem::path& file);

// Writes a dict of tensors as a torch zip file, which torch.load(weights_only=True) reads. Does not write metadata.
// Atomic and with the errors of save_safetensors().
void save_pickle(const StateDict& tensors, const std::filesystem::path& file);

}  // namespace lora
