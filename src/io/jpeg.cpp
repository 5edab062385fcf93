#include "io/jpeg.h"

#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <cstring>

// In this order: jpeglib.h needs <cstdio>.
#include <jerror.h>
#include <jpeglib.h>

#include "core/check.h"
#include "io/exif.h"
#include "io/picture.h"
#include "io/png.h"

// libjpeg reports errors by longjmp, which must not skip destructors. So objects with destructors live in the functions
// that call read_header(), read_pixels() and write_jpeg().

namespace lora {

namespace {

constexpr std::string_view kExif("Exif\0\0", 6);
constexpr int kExifMarker = JPEG_APP0 + 1;
constexpr uint64_t kMostExpansion = 512;  // pixels of a byte: at least one bit for a block of 64
constexpr int kMostScans = 100;           // a progressive file has about ten
constexpr int kQuality = 95;

struct Failure {
  jpeg_error_mgr manager{};
  std::jmp_buf jump;
  char message[JMSG_LENGTH_MAX] = "";
};

[[noreturn]] void stop(j_common_ptr info) { std::longjmp(reinterpret_cast<Failure*>(info->err)->jump, 1); }

[[noreturn]] void on_error(j_common_ptr info) {
  info->err->format_message(info, reinterpret_cast<Failure*>(info->err)->message);
  stop(info);
}

// A warning says that pixels are missing or wrong, but for these.
void on_message(j_common_ptr info, int level) {
  const auto code = info->err->msg_code;
  const bool harmless = code == JWRN_EXTRANEOUS_DATA || code == JWRN_JFIF_MAJOR || code == JWRN_ADOBE_XFORM;
  if (level < 0 && !harmless) on_error(info);
}

jpeg_error_mgr* errors_to(Failure& failure) {
  auto* manager = jpeg_std_error(&failure.manager);
  manager->error_exit = on_error;
  manager->emit_message = on_message;
  return manager;
}

struct Decoder {
  Failure failure;
  jpeg_progress_mgr progress{};
  jpeg_decompress_struct info{};

  Decoder() { info.err = errors_to(failure); }
  ~Decoder() { jpeg_destroy_decompress(&info); }
};

void on_progress(j_common_ptr info) {
  if (reinterpret_cast<j_decompress_ptr>(info)->input_scan_number <= kMostScans) return;
  std::strcpy(reinterpret_cast<Failure*>(info->err)->message, "it has too many scans");
  stop(info);
}

bool read_header(Decoder& decoder, std::string_view bytes) {
  if (setjmp(decoder.failure.jump)) return false;
  auto& info = decoder.info;
  jpeg_create_decompress(&info);
  decoder.progress.progress_monitor = on_progress;
  info.progress = &decoder.progress;
  jpeg_save_markers(&info, kExifMarker, 0xFFFF);
  jpeg_mem_src(&info, reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size());
  jpeg_read_header(&info, TRUE);
  info.out_color_space = info.num_components == 4 ? JCS_CMYK : JCS_RGB;
  return true;
}

// What Pillow makes of inverted CMYK, as Adobe's programs write it.
void to_rgb(const uint8_t* cmyk, size_t count, uint8_t* rgb) {
  for (size_t i = 0; i < count; ++i)
    for (size_t c = 0; c < 3; ++c) {
      const unsigned black = cmyk[4 * i + 3], product = (255u - cmyk[4 * i + c]) * black + 128;
      rgb[3 * i + c] = static_cast<uint8_t>(black - (((product >> 8) + product) >> 8));
    }
}

// `row` has room for a row of four channels.
bool read_pixels(Decoder& decoder, uint8_t* pixels, uint8_t* row) {
  if (setjmp(decoder.failure.jump)) return false;
  auto& info = decoder.info;
  jpeg_start_decompress(&info);
  const auto stride = size_t{3} * info.output_width;
  while (info.output_scanline < info.output_height) {
    auto* to = pixels + stride * info.output_scanline;
    JSAMPROW target = info.out_color_space == JCS_CMYK ? row : to;
    jpeg_read_scanlines(&info, &target, 1);
    if (target == row) to_rgb(row, info.output_width, to);
  }
  jpeg_finish_decompress(&info);
  return true;
}

Exif exif_of(const jpeg_decompress_struct& info) {
  for (const auto* marker = info.marker_list; marker; marker = marker->next) {
    std::string_view bytes(reinterpret_cast<const char*>(marker->data), marker->data_length);
    if (marker->marker == kExifMarker && bytes.starts_with(kExif)) return read_exif(bytes);
  }
  return {};
}

struct Encoder {
  Failure failure;
  jpeg_compress_struct info{};
  unsigned char* bytes = nullptr;
  unsigned long size = 0;

  Encoder() { info.err = errors_to(failure); }
  ~Encoder() {
    jpeg_destroy_compress(&info);
    std::free(bytes);
  }
};

bool write_jpeg(Encoder& encoder, const Image& image, const std::string& exif) {
  if (setjmp(encoder.failure.jump)) return false;
  auto& info = encoder.info;
  jpeg_create_compress(&info);
  jpeg_mem_dest(&info, &encoder.bytes, &encoder.size);
  info.image_width = static_cast<JDIMENSION>(image.width);
  info.image_height = static_cast<JDIMENSION>(image.height);
  info.input_components = 3;
  info.in_color_space = JCS_RGB;
  jpeg_set_defaults(&info);
  jpeg_set_quality(&info, kQuality, TRUE);
  info.comp_info[0].h_samp_factor = info.comp_info[0].v_samp_factor = 1;
  jpeg_start_compress(&info, TRUE);
  if (!exif.empty())
    jpeg_write_marker(&info, kExifMarker, reinterpret_cast<const JOCTET*>(exif.data()),
                      static_cast<unsigned>(exif.size()));
  const auto stride = static_cast<size_t>(image.width) * 3;
  while (info.next_scanline < info.image_height) {
    auto* row = const_cast<JSAMPROW>(image.pixels.data() + stride * info.next_scanline);
    jpeg_write_scanlines(&info, &row, 1);
  }
  jpeg_finish_compress(&info);
  return true;
}

}  // namespace

bool is_jpeg(std::string_view bytes) { return bytes.starts_with("\xFF\xD8\xFF"); }

Image decode_jpeg(std::string_view bytes, const std::string& where) {
  Decoder decoder;
  check(read_header(decoder, bytes), ErrorKind::bad_file, "{}: is a damaged JPEG file: {}", where,
        decoder.failure.message);
  const auto width = decoder.info.image_width, height = decoder.info.image_height;
  check_size(width, height, where);
  check(!decoder.info.arith_code, ErrorKind::unsupported,
        "{}: is a JPEG file with arithmetic coding, which is not read", where);
  check(uint64_t{width} * height <= kMostExpansion * bytes.size(), ErrorKind::bad_file,
        "{}: says it has {} x {} pixels, which {} bytes cannot hold", where, width, height, bytes.size());
  Image image{.width = static_cast<int>(width),
              .height = static_cast<int>(height),
              .pixels = std::vector<uint8_t>(size_t{3} * width * height)};
  auto exif = exif_of(decoder.info);  // before the end of decoding, which frees it
  std::vector<uint8_t> row(size_t{4} * width);
  check(read_pixels(decoder, image.pixels.data(), row.data()), ErrorKind::bad_file, "{}: is a damaged JPEG file: {}",
        where, decoder.failure.message);
  image.text = std::move(exif.text);
  return turned(std::move(image), exif.orientation);
}

std::string encode_jpeg(const Image& image) {
  check_pixels(image, "the picture");
  check(image.width <= JPEG_MAX_DIMENSION && image.height <= JPEG_MAX_DIMENSION, ErrorKind::usage,
        "the picture has {} x {} pixels; a JPEG file has at most {} on each side", image.width, image.height,
        JPEG_MAX_DIMENSION);
  const auto exif = write_exif(image.text);
  Encoder encoder;
  check(write_jpeg(encoder, image, exif), ErrorKind::io, "JPEG cannot be encoded: {}", encoder.failure.message);
  return {reinterpret_cast<const char*>(encoder.bytes), encoder.size};
}

}  // namespace lora
