#include <algorithm>
#include <cctype>
#include <nlohmann/json.hpp>

#include "core/check.h"
#include "core/text.h"
#include "core/utf8.h"
#include "io/mapped_file.h"
#include "io/public_call.h"
#include "io/safetensors.h"
#include "io/sharded.h"
#include "io/tensor_sizes.h"
#include "io/torch_file.h"
#include "lora/state_dict.h"

namespace lora {

namespace {

enum class Format { safetensors, torch_zip, torch_legacy, json };

// How a file of another kind begins, and the message about it.
struct Stranger {
  std::string_view start;
  ErrorKind kind;
  const char* message;
};

constexpr Stranger kStrangers[] = {
    {"version https://git-lfs", ErrorKind::bad_file,
     "is a Git LFS pointer, not the file it stands for; fetch that with `git lfs pull`, or download the file itself"},
    {"gguf", ErrorKind::unsupported, "is a GGUF file; wanted safetensors or a torch file; convert it first"},
};

bool starts_with_ignoring_case(std::string_view text, std::string_view start) {
  return text.size() >= start.size() && std::equal(start.begin(), start.end(), text.begin(), [](char a, char b) {
           return a == std::tolower(static_cast<unsigned char>(b));
         });
}

constexpr size_t kShown = 200;  // characters of what stands in place of the file
constexpr const char* kDownloadAgain = "the download gave it in place of the file; download that again";

// What a web page says first: its title, or else its text.
std::string said_by_page(std::string_view page) {
  std::string lower(page.substr(0, 1 << 16));
  for (auto& c : lower) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  auto begin = lower.find("<title>"), end = lower.find("</title>");
  if (begin != lower.npos && end != lower.npos && begin < end) {
    begin += std::string_view("<title>").size();
    return std::string(first_characters(trimmed(page.substr(begin, end - begin)), kShown));
  }
  std::string text;
  bool tag = false;
  for (char c : page.substr(0, lower.size())) {
    if (c == '<') tag = true;
    if (!tag) text += c;
    if (c == '>') tag = false;
  }
  return std::string(first_characters(trimmed(text), kShown));
}

// A web page or an XML answer in place of the file.
void check_no_page(std::string_view text, const std::string& where) {
  bool xml = starts_with_ignoring_case(text, "<?xml");
  bool page = xml || starts_with_ignoring_case(text, "<!doctype") || starts_with_ignoring_case(text, "<html");
  if (!page) return;
  auto said = said_by_page(text);
  fail(ErrorKind::bad_file, "{}: is {}{}; {}", where, xml ? "an XML answer of a server" : "a web page",
       said.empty() ? "" : fmt::format(", which says \"{}\"", said), kDownloadAgain);
}

// JSON that is no index of a sharded checkpoint is what a server says in place of the file.
void check_is_index(std::string_view text, const std::string& where) {
  auto json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) return;  // the reader of indices says where it is broken
  check(json.is_object() && json.contains("weight_map"), ErrorKind::bad_file,
        "{}: is JSON without a weight_map, not a tensor file or the index of a sharded checkpoint; it says {}. If it "
        "is an error of a server, {}",
        where, first_characters(trimmed(text), kShown), kDownloadAgain);
}

// A short text that is no tensor file: what a server says in place of it.
bool is_text(std::string_view bytes) {
  return is_utf8(bytes.substr(0, 1024)) &&
         std::none_of(bytes.begin(), bytes.begin() + std::min<size_t>(bytes.size(), 1024), [](char c) {
           return static_cast<unsigned char>(c) < ' ' && c != '\n' && c != '\r' && c != '\t';
         });
}

std::string hex(std::string_view bytes) {
  std::string text;
  for (char c : bytes) text += fmt::format("{}{:02x}", text.empty() ? "" : " ", static_cast<uint8_t>(c));
  return text;
}

Format format_of(std::string_view bytes, const std::string& where) {
  check(!bytes.empty(), ErrorKind::bad_file, "{}: is empty; the download or copy did not finish; fetch it again",
        where);
  // This test comes first: a safetensors file begins with a number, which may look like another kind's first bytes. A
  // header is shorter than 4 GiB.
  bool short_header = bytes.size() < 8 || bytes.substr(4, 4) == std::string_view("\0\0\0\0", 4);
  bool json_header = bytes.size() > 8 && bytes[8] == '{';
  if (short_header && json_header) return Format::safetensors;

  constexpr size_t kTarMagic = 257;
  auto text = bytes.substr(std::min(bytes.find_first_not_of(" \t\r\n"), bytes.size()));
  check_no_page(text, where);
  for (const auto& stranger : kStrangers)
    if (starts_with_ignoring_case(text, stranger.start)) fail(stranger.kind, "{}: {}", where, stranger.message);
  check(bytes.size() < kTarMagic + 5 || bytes.substr(kTarMagic, 5) != "ustar", ErrorKind::unsupported,
        "{}: is a tar archive of torch before 0.2; load it in Python and save it again", where);

  if (bytes.starts_with("PK\3\4") || bytes.starts_with("PK\5\6")) return Format::torch_zip;
  if (bytes.starts_with('\x80')) return Format::torch_legacy;
  auto first = bytes.substr(0, 8);
  if (text.starts_with('{') && first.find('\0') == first.npos) return Format::json;
  if (short_header || json_header) return Format::safetensors;  // damaged: the reader's message says how
  check(!is_text(bytes), ErrorKind::bad_file,
        "{}: is neither safetensors nor a torch file, but a text: \"{}\". If it is an answer of a server, {}", where,
        first_characters(trimmed(bytes), kShown), kDownloadAgain);
  fail(ErrorKind::bad_file, "{}: is neither safetensors nor a torch file; it begins with {}", where, hex(first));
}

// Reads a tensor file or, if `index`, the index of a sharded checkpoint.
StateDict load(const std::filesystem::path& path, bool index, Content content = Content::tensors) {
  auto file = MappedFile::open(path);
  switch (format_of(file->bytes(), path.string())) {
    case Format::safetensors: return read_safetensors(*file, content);
    case Format::torch_zip: return read_torch_zip(*file, content);
    case Format::torch_legacy: return read_torch_legacy(*file, content);
    case Format::json: break;
  }
  check(index, ErrorKind::bad_file, "{}: is JSON; wanted one of the tensor files of a sharded checkpoint",
        path.string());
  check_is_index(file->bytes(), path.string());
  return read_sharded(path, [](const std::filesystem::path& shard) { return load(shard, false); });
}

}  // namespace

StateDict load_state_dict(const std::filesystem::path& file) {
  return public_call([&] { return load(file, true); });
}

StateDict load_tensor_sizes(const std::filesystem::path& file) {
  return edge([&] { return load(file, false, Content::sizes); });
}

}  // namespace lora
