#include "io/exif.h"

#include <libexif/exif-data.h>
#include <unicode/unistr.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <nlohmann/json.hpp>

#include "core/check.h"
#include "core/utf8.h"
#include "lora/text.h"

namespace lora {

namespace {

constexpr std::string_view kHeader("Exif\0\0", 6);
constexpr std::string_view kUnicode("UNICODE\0", 8), kAscii("ASCII\0\0\0", 8), kUndefined("\0\0\0\0\0\0\0\0", 8);
constexpr auto kParameters = "parameters";
constexpr size_t kMostBytes = 65533;  // of a marker of JPEG, and of what libexif reads

template <auto unref>
struct Unref {
  template <class T>
  void operator()(T* object) const {
    unref(object);
  }
};
using Data = std::unique_ptr<ExifData, Unref<exif_data_unref>>;
using Entry = std::unique_ptr<ExifEntry, Unref<exif_entry_unref>>;

Data new_data() {
  Data data(exif_data_new());
  if (!data) throw std::bad_alloc();
  exif_data_set_byte_order(data.get(), EXIF_BYTE_ORDER_MOTOROLA);
  // Otherwise libexif adds entries of its own and rewrites comments.
  exif_data_unset_option(data.get(), EXIF_DATA_OPTION_FOLLOW_SPECIFICATION);
  return data;
}

// ---- Reading --------------------------------------------------------------------------------------------------------

const ExifEntry* entry(const Data& data, ExifIfd ifd, ExifTag tag) {
  const auto* found = exif_content_get_entry(data->ifd[ifd], tag);
  return found && found->data ? found : nullptr;
}

std::string_view bytes_of(const ExifEntry* entry) {
  if (!entry) return {};
  return {reinterpret_cast<const char*>(entry->data), entry->size};
}

int orientation_of(const Data& data) {
  const auto* found = entry(data, EXIF_IFD_0, EXIF_TAG_ORIENTATION);
  if (!found || found->format != EXIF_FORMAT_SHORT || found->size < 2) return 1;
  const int orientation = exif_get_short(found->data, exif_data_get_byte_order(data.get()));
  return orientation >= 1 && orientation <= 8 ? orientation : 1;
}

std::string without_zeros(std::string_view text) {
  const auto end = text.find_last_not_of('\0');
  return std::string(text.substr(0, end == text.npos ? 0 : end + 1));
}

// The standard does not say the byte order of a comment. The order that gives more Latin letters is taken.
std::string from_utf16(std::string_view bytes) {
  size_t zeros[2] = {};
  for (size_t i = 0; i < bytes.size(); ++i) zeros[i % 2] += bytes[i] == '\0';
  const bool little = bytes.starts_with("\xFF\xFE") || (!bytes.starts_with("\xFE\xFF") && zeros[1] > zeros[0]);
  icu::UnicodeString text;
  for (size_t i = 0; i + 1 < bytes.size(); i += 2) {
    const auto first = static_cast<unsigned char>(bytes[i]), second = static_cast<unsigned char>(bytes[i + 1]);
    const auto unit = static_cast<char16_t>(little ? first | second << 8 : first << 8 | second);
    if (unit != u'\uFEFF') text.append(unit);
  }
  std::string utf8;
  text.toUTF8String(utf8);
  return without_zeros(utf8);
}

std::string comment_of(std::string_view bytes) {
  if (bytes.starts_with(kUnicode)) return from_utf16(bytes.substr(kUnicode.size()));
  for (auto code : {kAscii, kUndefined})
    if (bytes.starts_with(code)) return valid_utf8(without_zeros(bytes.substr(code.size())));
  return "";
}

void add_texts(std::map<std::string, std::string>& all, std::string_view bytes) {
  const auto text = without_zeros(bytes);
  for (const char* keyword : {"prompt", "workflow"})
    if (text.starts_with(std::string(keyword) + ":")) all[keyword] = valid_utf8(text.substr(strlen(keyword) + 1));
  const auto json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return;
  for (const auto& [keyword, value] : json.items())
    if (value.is_string()) all[keyword] = value;
}

// ---- Writing --------------------------------------------------------------------------------------------------------

void add(const Data& data, ExifIfd ifd, ExifTag tag, ExifFormat format, const std::string& bytes) {
  Entry added(exif_entry_new());
  if (!added) throw std::bad_alloc();
  added->data = static_cast<unsigned char*>(std::malloc(bytes.size()));  // the entry frees it
  if (!added->data) throw std::bad_alloc();
  std::memcpy(added->data, bytes.data(), bytes.size());
  added->size = static_cast<unsigned>(bytes.size());
  added->components = bytes.size();
  added->tag = tag;
  added->format = format;
  exif_content_add_entry(data->ifd[ifd], added.get());
}

std::string to_utf16(const std::string& utf8) {
  const auto text = icu::UnicodeString::fromUTF8(utf8);
  std::string bytes;
  for (int32_t i = 0; i < text.length(); ++i) {
    bytes += static_cast<char>(text[i] >> 8);
    bytes += static_cast<char>(text[i] & 0xFF);
  }
  return bytes;
}

}  // namespace

Exif read_exif(std::string_view bytes) {
  const auto whole = bytes.starts_with(kHeader) ? std::string(bytes) : std::string(kHeader) + std::string(bytes);
  auto data = new_data();
  exif_data_load_data(data.get(), reinterpret_cast<const unsigned char*>(whole.data()),
                      static_cast<unsigned>(std::min(whole.size(), kMostBytes)));
  Exif exif{.orientation = orientation_of(data)};
  for (auto tag : {EXIF_TAG_MAKE, EXIF_TAG_MODEL, EXIF_TAG_IMAGE_DESCRIPTION})
    add_texts(exif.text, bytes_of(entry(data, EXIF_IFD_0, tag)));
  const auto comment = comment_of(bytes_of(entry(data, EXIF_IFD_EXIF, EXIF_TAG_USER_COMMENT)));
  if (!comment.empty()) exif.text[kParameters] = comment;
  return exif;
}

std::string write_exif(const std::map<std::string, std::string>& text) {
  if (text.empty()) return "";
  auto data = new_data();
  auto others = nlohmann::json::object();
  for (const auto& [keyword, value] : text) {
    if (keyword == kParameters)
      add(data, EXIF_IFD_EXIF, EXIF_TAG_USER_COMMENT, EXIF_FORMAT_UNDEFINED,
          std::string(kUnicode) + to_utf16(valid_utf8(value)));
    else
      others[valid_utf8(keyword)] = valid_utf8(value);
  }
  if (!others.empty())
    add(data, EXIF_IFD_0, EXIF_TAG_IMAGE_DESCRIPTION, EXIF_FORMAT_ASCII,
        others.dump(-1, ' ', /*ensure_ascii=*/true) + '\0');
  unsigned char* bytes = nullptr;
  unsigned size = 0;
  exif_data_save_data(data.get(), &bytes, &size);
  const std::unique_ptr<unsigned char, Unref<std::free>> owned(bytes);
  if (!bytes) throw std::bad_alloc();
  check(size <= kMostBytes, ErrorKind::usage,
        "the texts of the picture have {} bytes; JPEG and WebP files hold at most {}. Write a PNG file", size,
        kMostBytes);
  return {reinterpret_cast<const char*>(bytes), size};
}

}  // namespace lora
