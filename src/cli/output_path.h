#pragma once
// Whether results can be written, before the work that makes them.
#include <filesystem>

namespace lora::cli {

// Throws Error{io} where the file cannot be written: its folder does not exist or cannot be written, or it is a folder.
void check_can_write_file(const std::filesystem::path& file);
// Throws Error{io} where files cannot be written into the folder, which may be missing, or it is a file.
void check_can_write_folder(const std::filesystem::path& folder);

}  // namespace lora::cli
