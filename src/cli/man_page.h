#pragma once
// The manual page of the command.
#include <string>

#include "outline.h"

namespace lora::cli {

// The page lora.1, in the language of man.
std::string man_page(const OutlineVerb& command);

}  // namespace lora::cli
