#pragma once
#include <filesystem>

#include "lora/memory.h"

namespace lora {

// free_memory() of a machine whose folders proc and sys are below `root`. For control groups of versions 1 and 2.
double free_memory_below(const std::filesystem::path& root);

}  // namespace lora
