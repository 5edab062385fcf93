#pragma once
// Reads and writes configuration and other text files.
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace lora {

// Throws Error{not_found} if the file does not exist. Throws Error{bad_file} with line and column if it is not JSON.
nlohmann::json read_json(const std::filesystem::path& path);

// The parser's message, without its prefix and cut to one line.
std::string json_reason(const nlohmann::json::exception& error);

// The content of a file. Throws Error{not_found} if it does not exist, Error{io} if it cannot be read. Throws
// Error{bad_file} if it is a folder, a device or a pipe, or has more than 1 GiB.
std::string read_text(const std::filesystem::path& path);

// Writes atomically (see AtomicFile). Throws Error{io}.
void write_text(const std::filesystem::path& path, std::string_view text);

}  // namespace lora
