#pragma once
// The library's messages in the words of the command.
#include <string>
#include <string_view>

namespace lora::cli {

// Replaces the names of the library's arguments by those of the options: "guidance_scale" by "--cfg".
std::string in_option_names(std::string_view message);

}  // namespace lora::cli
