#include "core/check.h"
#include "core/utf8.h"
#include "io/exif.h"
#include "io/latin1.h"
#include "io/libpng.h"
#include "io/picture.h"
#include "io/png.h"

namespace lora {

namespace {

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

bool has_alpha(const Reader& reader) {
  return (png_get_color_type(reader.png, reader.info) & PNG_COLOR_MASK_ALPHA) != 0 ||
         png_get_valid(reader.png, reader.info, PNG_INFO_tRNS) != 0;
}

// Converts every kind of pixels to 8-bit RGB, or to RGBA for four channels.
bool read_pixels(Reader& reader, png_bytepp rows, size_t channels) {
  if (setjmp(png_jmpbuf(reader.png))) return false;
  png_set_scale_16(reader.png);
  png_set_palette_to_rgb(reader.png);
  png_set_expand_gray_1_2_4_to_8(reader.png);
  png_set_gray_to_rgb(reader.png);
  if (channels == 4) png_set_tRNS_to_alpha(reader.png);
  png_set_interlace_handling(reader.png);
  png_read_update_info(reader.png, reader.info);
  if (png_get_rowbytes(reader.png, reader.info) != channels * png_get_image_width(reader.png, reader.info))
    png_error(reader.png, "its pixels do not become RGB");
  png_read_image(reader.png, rows);
  png_read_end(reader.png, reader.info);
  return true;
}

int orientation_of(const Reader& reader) {
  png_bytep bytes = nullptr;
  png_uint_32 size = 0;
  if (!png_get_eXIf_1(reader.png, reader.info, &size, &bytes)) return 1;
  return read_exif({reinterpret_cast<const char*>(bytes), size}).orientation;
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

bool is_png(std::string_view bytes) { return bytes.starts_with("\x89PNG\r\n\x1a\n"); }

Image decode_png(std::string_view bytes, const std::string& where) {
  check(is_png(bytes), ErrorKind::bad_file, "{}: is not a PNG file", where);
  Reader reader;
  reader.rest = bytes;
  reader.png =
      png_create_read_struct(PNG_LIBPNG_VER_STRING, static_cast<PngState*>(&reader), on_png_error, ignore_png_warning);
  if (reader.png) reader.info = png_create_info_struct(reader.png);
  check(reader.info && read_header(reader), ErrorKind::bad_file, "{}: is a damaged PNG file: {}", where, reader.error);

  uint64_t width = png_get_image_width(reader.png, reader.info), height = png_get_image_height(reader.png, reader.info);
  check_size(width, height, where);
  check(png_get_rowbytes(reader.png, reader.info) * height <= kMostExpansion * bytes.size(), ErrorKind::bad_file,
        "{}: says it has {} x {} pixels, which {} bytes cannot hold", where, width, height, bytes.size());

  const size_t channels = has_alpha(reader) ? 4 : 3;
  Image image{.width = static_cast<int>(width), .height = static_cast<int>(height)};
  std::vector<uint8_t> pixels(width * height * channels);
  std::vector<png_bytep> rows(height);
  for (size_t y = 0; y < height; ++y) rows[y] = pixels.data() + y * width * channels;
  check(read_pixels(reader, rows.data(), channels), ErrorKind::bad_file, "{}: is a damaged PNG file: {}", where,
        reader.error);
  if (channels == 4)
    image = over_white(image.width, image.height, pixels.data());
  else
    image.pixels = std::move(pixels);
  image.text = text_of(reader);
  return turned(std::move(image), orientation_of(reader));
}

}  // namespace lora
