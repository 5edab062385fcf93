#include "io/json_file.h"

#include "core/check.h"
#include "io/atomic_file.h"
#include "io/mapped_file.h"

namespace lora {

nlohmann::json read_json(const std::filesystem::path& path) {
  auto file = MappedFile::open(path);
  check(file->size() > 0, ErrorKind::bad_file, "{}: is empty; wanted JSON", path.string());
  auto text = file->bytes();
  // The parser takes a NUL for the end of its input, and would leave what follows unread.
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
  if (reason.size() > kMost) reason = reason.substr(0, kMost) + " …";
  return reason;
}

void write_text(const std::filesystem::path& path, std::string_view text) {
  AtomicFile file(path);
  file.write(text.data(), text.size());
  file.commit();
}

}  // namespace lora
