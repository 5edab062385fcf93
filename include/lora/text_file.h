#pragma once
#include <filesystem>
#include <string_view>

namespace lora {

// Writes a file atomically: writes a temporary file beside it, then renames that. The bytes are written as they are.
// Throws Error{io}. Threads: any number of threads may call it at once.
void write_text_file(const std::filesystem::path& file, std::string_view text);

}  // namespace lora
