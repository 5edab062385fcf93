#pragma once
// What a tensor file says of its tensors, without the tensors.
#include <filesystem>

#include "lora/state_dict.h"

namespace lora {

// What is read of a tensor file.
enum class Content { tensors, sizes };

// As load_state_dict(), but reads only the header of the file, or the pickle in it. The tensors have their names,
// dtypes and sizes, on the device meta. Numbers that stand in a pickle itself are there. Throws Error{bad_file} for an
// index of a sharded checkpoint.
StateDict load_tensor_sizes(const std::filesystem::path& file);

}  // namespace lora
