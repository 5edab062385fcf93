#pragma once
// What the command prints. Results go to stdout, and all else to stderr. Texts from outside become printable()
// (lora/text.h), so that they do nothing to a terminal and add no lines.
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "lora/adapters.h"

namespace lora::cli {

// Call it first: opens what the caller closed of stdin, stdout and stderr, so that no file of ours gets their numbers.
void open_closed_streams();

// Lines for people to stdout.
void print(std::string_view lines);
// A value as the lines of a JSON file, in ASCII. Bytes that are not UTF-8 become U+FFFD: give valid_utf8() of texts.
std::string json_text(const nlohmann::ordered_json& value);
// json_text() to stdout.
void print_json(const nlohmann::ordered_json& value);
// The path of a file that the command wrote or found, as a line on stdout. A pipe or a file gets its bytes as they are,
// so that a script can use the path. A terminal gets printable().
void print_path(const std::filesystem::path& path);
// Bytes of a file to stdout, as they are.
void print_bytes(std::string_view bytes);
// Throws Error{io} where something could not be written to stdout. Call it last.
void check_printed();

// Lines for people to stderr.
void tell(std::string_view lines);
// "lora: note: …" on stderr, each note once.
void note(std::string_view text);
// What a load left out or noted. Nothing for a load without remarks.
void note(const LoadReport& report);
// "lora: …" on stderr.
void print_error(std::string_view message);

}  // namespace lora::cli
