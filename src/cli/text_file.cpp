#include "text_file.h"

#include <fstream>
#include <iostream>
#include <iterator>

#include "check.h"

namespace lora::cli {

namespace fs = std::filesystem;

std::string read_text_file(const char* option, const fs::path& file) {
  std::error_code error;
  check(fs::exists(file, error), ErrorKind::not_found, "{} {}: no such file", option, file.string());
  check(!fs::is_directory(file, error), ErrorKind::io, "{} {}: is a folder. Give the name of a file.", option,
        file.string());
  std::ifstream in(file, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(in), {}};
  check(in.good(), ErrorKind::io, "{} {}: cannot be read", option, file.string());
  constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
  return text.starts_with(kByteOrderMark) ? text.substr(kByteOrderMark.size()) : text;
}

std::string read_stdin(const char* option) {
  std::string text{std::istreambuf_iterator<char>(std::cin), {}};
  check(!std::cin.bad(), ErrorKind::io, "{} -: stdin cannot be read", option);
  if (text.ends_with('\n')) text.pop_back();
  if (text.ends_with('\r')) text.pop_back();
  return text;
}

std::string trimmed(std::string_view text) {
  const auto begin = text.find_first_not_of(kSpace);
  return begin == text.npos ? "" : std::string(text.substr(begin, text.find_last_not_of(kSpace) - begin + 1));
}

}  // namespace lora::cli
