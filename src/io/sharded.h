#pragma once
// Checkpoints in several files, listed by a `*.safetensors.index.json` or `*.bin.index.json`.
#include <filesystem>
#include <functional>
#include <set>
#include <string>

#include "lora/state_dict.h"

namespace lora {

// The files that an index lists: names without folders. Throws Error{bad_file}.
std::set<std::string> shards_of(const std::filesystem::path& index);

// Reads all tensors of the checkpoint. `load` reads one of the files beside the index. Throws Error{not_found,
// bad_file} if a file or a tensor that the index lists does not exist; the message names it.
StateDict read_sharded(const std::filesystem::path& index,
                       const std::function<StateDict(const std::filesystem::path&)>& load);

}  // namespace lora
