#pragma once
// Texts that the command reads from files and stdin.
#include <filesystem>
#include <string>
#include <string_view>

namespace lora::cli {

// The bytes of a file that an option names, without a byte order mark. Throws Error{not_found, io} that begins with the
// option.
std::string read_text_file(const char* option, const std::filesystem::path& file);

// All of stdin, without one line break at its end. Throws Error{io} that begins with the option.
std::string read_stdin(const char* option);

// The white space of ASCII.
inline constexpr std::string_view kSpace = " \t\n\r\v\f";
// Without white space at its ends.
std::string trimmed(std::string_view text);

}  // namespace lora::cli
