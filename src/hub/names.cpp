#include "hub/names.h"

#include <algorithm>

#include "core/check.h"
#include "core/text.h"
#include "core/utf8.h"
#include "lora/hub.h"

namespace lora {

namespace {

constexpr size_t kShown = 200;  // characters of a name in a message

bool is_word(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_'; }

bool is_repo_name(std::string_view name) {
  return !name.empty() && name.size() <= 96 && is_word(name.front()) && is_word(name.back()) &&
         std::all_of(name.begin(), name.end(), [](char c) { return is_word(c) || c == '-' || c == '.'; }) &&
         name.find("--") == name.npos && name.find("..") == name.npos;
}

bool is_hexadecimal(std::string_view text, size_t digits) {
  return text.size() == digits &&
         std::all_of(text.begin(), text.end(), [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

bool has_controls(std::string_view text) {
  return std::any_of(text.begin(), text.end(), [](unsigned char c) { return c < ' ' || c == 0x7f; });
}

}  // namespace

bool is_repo_id(std::string_view text) {
  auto parts = split(text, '/');
  return parts.size() == 2 && is_repo_name(parts[0]) && is_repo_name(parts[1]) && !text.ends_with(".git");
}

void check_repo_id(const std::string& repo_id) {
  check(is_repo_id(repo_id) || (is_repo_name(repo_id) && !repo_id.ends_with(".git")), ErrorKind::usage,
        "\"{}\" is not a repository id; \"owner/name\" was expected, of letters, digits, \"-\", \"_\" and \".\"",
        first_characters(repo_id, kShown));
}

void check_revision(const std::string& revision) {
  bool inside = !revision.empty() && revision.front() != '/' && revision.back() != '/' && !has_controls(revision) &&
                revision.find('\\') == revision.npos;
  for (const auto& part : split(revision, '/')) inside = inside && !part.empty() && part != "." && part != "..";
  check(inside, ErrorKind::usage, "\"{}\" is not a revision; a branch, a tag or a commit was expected",
        first_characters(revision, kShown));
}

void check_file_name(const std::string& name, const std::string& label) {
  bool inside = !name.empty() && !has_controls(name) && name.find('\\') == name.npos;
  for (const auto& part : split(name, '/')) {
    bool drive = part.size() >= 2 && part[1] == ':';
    inside = inside && !part.empty() && part != "." && part != ".." && !drive && part.size() <= 255;
  }
  check(inside, ErrorKind::bad_file,
        "{}: \"{}\" is not a valid file name: it leads out of the repository, or no file can have it", label,
        first_characters(name, kShown));
}

bool is_commit(std::string_view revision) { return is_hexadecimal(revision, 40); }
bool is_sha256(std::string_view etag) { return is_hexadecimal(etag, 64); }
bool is_sha1(std::string_view etag) { return is_hexadecimal(etag, 40); }

std::string url_quoted(std::string_view text, std::string_view kept) {
  std::string quoted;
  for (char c : text)
    if (is_word(c) || c == '-' || c == '.' || c == '~' || kept.find(c) != kept.npos)
      quoted += c;
    else
      quoted += fmt::format("%{:02X}", static_cast<unsigned char>(c));
  return quoted;
}

}  // namespace lora
