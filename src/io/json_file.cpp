#include "io/json_file.h"

#include <fstream>

#include "core/check.h"
#include "core/utf8.h"
#include "io/atomic_file.h"

namespace lora {

namespace fs = std::filesystem;

nlohmann::json read_json(const fs::path& path) {
  auto text = read_text(path);
  check(!text.empty(), ErrorKind::bad_file, "{}: is empty; wanted JSON", path.string());
  // The parser stops at a NUL and would ignore the rest.
  check(text.find('\0') == text.npos, ErrorKind::bad_file, "{}: is not JSON: it has NUL bytes", path.string());
  try {
    return nlohmann::json::parse(text.begin(), text.end());
  } catch (const nlohmann::json::exception& error) {
    fail(ErrorKind::bad_file, "{}: is not JSON: {}", path.string(), json_reason(error));
  }
}

std::string json_reason(const nlohmann::json::exception& error) {
  constexpr size_t kMost = 200;
  std::string reason = error.what();  // "[json.exception.parse_error.101] parse error at line 1, column 2: …"
  if (size_t prefix = reason.find("] "); reason.starts_with("[json") && prefix != reason.npos)
    reason.erase(0, prefix + 2);
  if (auto shown = first_characters(reason, kMost); shown.size() < reason.size()) reason = std::string(shown) + " …";
  return reason;
}

std::string read_text(const fs::path& path) {
  constexpr std::streamoff kLargest = 1 << 30;
  std::error_code ignored;
  auto type = fs::status(path, ignored).type();
  check(type != fs::file_type::not_found, ErrorKind::not_found, "{}: no such file", path.string());
  check(type != fs::file_type::directory, ErrorKind::bad_file, "{}: is a folder; name a file in it", path.string());
  // To open a pipe would wait for its writer.
  bool unreadable = type == fs::file_type::none || type == fs::file_type::unknown;
  check(type == fs::file_type::regular || unreadable, ErrorKind::bad_file, "{}: is a device or pipe; wanted a file",
        path.string());
  std::ifstream in(path, std::ios::binary | std::ios::ate);
  std::streamoff size = in.is_open() ? std::streamoff(in.tellg()) : -1;
  check(size >= 0, ErrorKind::io, "{}: cannot be read", path.string());
  check(size <= kLargest, ErrorKind::bad_file, "{}: has {} bytes; at most {} were expected", path.string(), size,
        kLargest);
  std::string text(static_cast<size_t>(size), '\0');
  in.seekg(0).read(text.data(), size);
  check(in.gcount() == size, ErrorKind::io, "{}: cannot be read", path.string());
  return text;
}

void write_text(const fs::path& path, std::string_view text) {
  AtomicFile file(path);
  file.write(text.data(), text.size());
  file.commit();
}

}  // namespace lora
