#include "core/check.h"
#include "core/utf8.h"
#include "io/latin1.h"
#include "io/libpng.h"
#include "io/png.h"

namespace lora {

namespace {

constexpr uint64_t kMostPixels = uint64_t{1} << 28;
constexpr uint64_t kMostExpansion =
    1032;  // the most that deflate can expand: a file that claims more pixels is damaged

struct Reader : PngState {
  std::string_view rest;

  ~Reader() {
    if (png) png_destroy_read_struct(&png, &info, nullptr);
  }
};

void on_read(png_structp png, png_bytep data, size_t size) {
  auto& rest = static_cast<Reader*>(png_get_io_ptr(png))->rest;
  if (size > rest.size()) png_error(png, "the file is cut off");
  std::memcpy(data, rest.data(), size);
  rest.remove_prefix(size);
}

bool read_header(Reader& reader) {
  if (setjmp(png_jmpbuf(reader.png))) return false;
  png_set_read_fn(reader.png, &reader, on_read);
  png_read_info(reader.png, reader.info);
  return true;
}

// Converts every kind of pixels to 8-bit RGB.
bool read_pixels(Reader& reader, png_bytepp rows) {
  if (setjmp(png_jmpbuf(reader.png))) return false;
  png_set_scale_16(reader.png);
  png_set_palette_to_rgb(reader.png);
  png_set_expand_gray_1_2_4_to_8(reader.png);
  png_set_gray_to_rgb(reader.png);
  png_set_strip_alpha(reader.png);
  png_set_interlace_handling(reader.png);
  png_read_update_info(reader.png, reader.info);
  if (png_get_rowbytes(reader.png, reader.info) != size_t{3} * png_get_image_width(reader.png, reader.info))
    png_error(reader.png, "its pixels do not become RGB");
  png_read_image(reader.png, rows);
  png_read_end(reader.png, reader.info);
  return true;
}

std::map<std::string, std::string> text_of(const Reader& reader) {
  std::map<std::string, std::string> entries;
  png_textp text = nullptr;
  int count = 0;
  png_get_text(reader.png, reader.info, &text, &count);
  for (int i = 0; i < count; ++i) {
    std::string_view value = text[i].text ? text[i].text : "";
    bool utf8 = text[i].compression >= PNG_ITXT_COMPRESSION_NONE && is_utf8(value);
    entries[from_latin1(text[i].key)] = utf8 ? std::string(value) : from_latin1(value);
  }
  return entries;
}

}  // namespace

Image decode_png(std::string_view bytes, const std::string& where) {
  check(bytes.starts_with("\x89PNG\r\n\x1a\n"), ErrorKind::bad_file, "{}: is not a PNG file", where);
  Reader reader;
  reader.rest = bytes;
  reader.png =
      png_create_read_struct(PNG_LIBPNG_VER_STRING, static_cast<PngState*>(&reader), on_png_error, ignore_png_warning);
  if (reader.png) reader.info = png_create_info_struct(reader.png);
  check(reader.info && read_header(reader), ErrorKind::bad_file, "{}: is a damaged PNG file: {}", where, reader.error);

  uint64_t width = png_get_image_width(reader.png, reader.info), height = png_get_image_height(reader.png, reader.info);
  check(width * height <= kMostPixels, ErrorKind::unsupported, "{}: has {} x {} pixels; at most {} are read", where,
        width, height, kMostPixels);
  check(png_get_rowbytes(reader.png, reader.info) * height <= kMostExpansion * bytes.size(), ErrorKind::bad_file,
        "{}: says it has {} x {} pixels, which {} bytes cannot hold", where, width, height, bytes.size());

  Image image{static_cast<int>(width), static_cast<int>(height), std::vector<uint8_t>(width * height * 3), {}};
  std::vector<png_bytep> rows(height);
  for (size_t y = 0; y < height; ++y) rows[y] = image.pixels.data() + y * width * 3;
  check(read_pixels(reader, rows.data()), ErrorKind::bad_file, "{}: is a damaged PNG file: {}", where, reader.error);
  image.text = text_of(reader);
  return image;
}

}  // namespace lora
