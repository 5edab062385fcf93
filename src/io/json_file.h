#pragma once
// Configuration and other text files, whole.
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace lora {

// Throws Error{not_found} where there is no such file, Error{bad_file} with line and column where it is not JSON.
nlohmann::json read_json(const std::filesystem::path& path);

// What the parser has against a text, without its own prefix and cut to a line.
std::string json_reason(const nlohmann::json::exception& error);

// Throws Error{not_found} where there is no such file, Error{io} where it cannot be read, Error{bad_file} where it is
// no file or absurdly large.
std::string read_text(const std::filesystem::path& path);

// Atomic (see AtomicFile). Throws Error{io}.
void write_text(const std::filesystem::path& path, std::string_view text);

}  // namespace lora
