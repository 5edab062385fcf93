#include "output.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <set>
#include <string>

#include "check.h"
#include "lora/text.h"
#include "option_names.h"

namespace lora::cli {

namespace {

void write(std::FILE* to, std::string_view text) { std::fwrite(text.data(), 1, text.size(), to); }

// A text on stderr in a colour, where stderr is a terminal that shows colours. https://no-color.org
std::string coloured(const char* colour, const std::string& text) {
  const char *no_color = std::getenv("NO_COLOR"), *terminal = std::getenv("TERM");
  const bool plain = !isatty(STDERR_FILENO) || (no_color && *no_color) || !terminal || std::string(terminal) == "dumb";
  return plain ? text : fmt::format("\x1b[{}m{}\x1b[0m", colour, text);
}

constexpr const char *kRed = "1;31", *kYellow = "1;33";

// Each line is printable(), and ends.
std::string printable_lines(std::string_view lines) {
  std::string text;
  while (!lines.empty()) {
    const auto end = lines.find('\n');
    text += printable(lines.substr(0, end)) + "\n";
    lines.remove_prefix(end == lines.npos ? lines.size() : end + 1);
  }
  return text;
}

}  // namespace

void open_closed_streams() {
  // Read-only, so that what is written to it fails as it would have.
  for (int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO})
    if (::fcntl(fd, F_GETFD) == -1 && errno == EBADF) ::open("/dev/null", O_RDONLY);
}

void print(std::string_view lines) { write(stdout, printable_lines(lines)); }

std::string json_text(const nlohmann::ordered_json& value) {
  using nlohmann::ordered_json;
  return value.dump(2, ' ', /*ensure_ascii=*/true, ordered_json::error_handler_t::replace) + "\n";
}

void print_bytes(std::string_view bytes) { write(stdout, bytes); }

void print_json(const nlohmann::ordered_json& value) { write(stdout, json_text(value)); }

void print_path(const std::filesystem::path& path) {
  write(stdout, (isatty(STDOUT_FILENO) ? printable(path.string()) : path.string()) + "\n");
}

void check_printed() {
  errno = 0;
  const bool flushed = std::fflush(stdout) == 0;
  check(flushed && !std::ferror(stdout), ErrorKind::io, "stdout cannot be written{}. The work itself is done.",
        errno ? fmt::format(": {}", std::strerror(errno)) : "");
}

void tell(std::string_view lines) { write(stderr, printable_lines(in_option_names(lines))); }

void note(std::string_view text) {
  static std::set<std::string> said;
  auto line = printable_lines(in_option_names(text));
  if (said.insert(line).second) write(stderr, coloured(kYellow, "lora: note:") + " " + line);
}

void note(const LoadReport& report) {
  if (!report.unmatched.empty() || !report.notes.empty()) tell(report.text());
}

void print_error(std::string_view message) {
  write(stderr, coloured(kRed, "lora:") + " " + printable_lines(in_option_names(message)));
}

}  // namespace lora::cli
