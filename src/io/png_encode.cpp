#include "core/check.h"
#include "core/escape.h"
#include "io/latin1.h"
#include "io/libpng.h"
#include "io/png.h"

// libpng reports errors by longjmp, which must not skip destructors. So objects with destructors live in the functions
// that call write_png().

namespace lora {

namespace {

struct Writer : PngState {
  std::string bytes;

  ~Writer() {
    if (png) png_destroy_write_struct(&png, &info);
  }
};

bool append(std::string& bytes, png_bytep data, size_t size) noexcept {
  try {
    bytes.append(reinterpret_cast<const char*>(data), size);
    return true;
  } catch (...) {
    return false;
  }
}

void on_write(png_structp png, png_bytep data, size_t size) {
  if (!append(static_cast<Writer*>(png_get_io_ptr(png))->bytes, data, size)) png_error(png, "out of memory");
}

void on_flush(png_structp) {}

bool write_png(Writer& writer, const Image& image, png_text* text, int texts) {
  if (setjmp(png_jmpbuf(writer.png))) return false;
  png_set_write_fn(writer.png, &writer, on_write, on_flush);
  png_set_IHDR(writer.png, writer.info, static_cast<png_uint_32>(image.width), static_cast<png_uint_32>(image.height),
               8, PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
  if (texts > 0) png_set_text(writer.png, writer.info, text, texts);
  png_write_info(writer.png, writer.info);
  size_t stride = static_cast<size_t>(image.width) * 3;
  for (int y = 0; y < image.height; ++y)
    png_write_row(writer.png, image.pixels.data() + static_cast<size_t>(y) * stride);
  png_write_end(writer.png, writer.info);
  return true;
}

// A text entry for libpng, with the bytes that libpng's structure points to.
struct TextEntry {
  std::string keyword, text;
  bool utf8;
};

TextEntry text_entry(const std::string& keyword, const std::string& text) {
  auto name = to_latin1(keyword);
  bool good = name && !name->empty() && name->size() < 80 && name->front() != ' ' && name->back() != ' ';
  for (size_t i = 0; good && i < name->size(); ++i) {
    auto c = static_cast<uint8_t>((*name)[i]);
    good = (c >= 32 && c < 127) || c >= 161;
  }
  check(good, ErrorKind::usage,
        "PNG text \"{}\": a keyword has 1 to 79 printable Latin-1 characters, without a space at its ends", keyword);
  auto allowed = escaped(text, [](char32_t c) { return is_control(c) && c != U'\n' && c != U'\t'; });
  auto latin1 = to_latin1(allowed);
  return {*name, latin1.value_or(allowed), !latin1};
}

}  // namespace

std::string encode_png(const Image& image) {
  check_pixels(image, "the picture");
  std::vector<TextEntry> entries;
  for (const auto& [keyword, text] : image.text) entries.push_back(text_entry(keyword, text));
  std::vector<png_text> text(entries.size());
  for (size_t i = 0; i < entries.size(); ++i) {
    text[i].compression = entries[i].utf8 ? PNG_ITXT_COMPRESSION_NONE : PNG_TEXT_COMPRESSION_NONE;
    text[i].key = entries[i].keyword.data();
    text[i].text = entries[i].text.data();
    (entries[i].utf8 ? text[i].itxt_length : text[i].text_length) = entries[i].text.size();
  }

  Writer writer;
  writer.png =
      png_create_write_struct(PNG_LIBPNG_VER_STRING, static_cast<PngState*>(&writer), on_png_error, ignore_png_warning);
  if (writer.png) writer.info = png_create_info_struct(writer.png);
  check(writer.info && write_png(writer, image, text.data(), static_cast<int>(text.size())), ErrorKind::io,
        "PNG cannot be encoded: {}", writer.error);
  return std::move(writer.bytes);
}

}  // namespace lora
