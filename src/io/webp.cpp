#include "io/webp.h"

#include <webp/decode.h>
#include <webp/encode.h>
#include <webp/mux.h>

#include <memory>

#include "core/check.h"
#include "io/exif.h"
#include "io/picture.h"
#include "io/png.h"

namespace lora {

namespace {

constexpr size_t kExifHeader = 6;  // "Exif" and two zeros, which the chunk of a WebP file does not have

const uint8_t* data_of(std::string_view bytes) { return reinterpret_cast<const uint8_t*>(bytes.data()); }

struct DeleteMux {
  void operator()(WebPMux* mux) const { WebPMuxDelete(mux); }
};
using Mux = std::unique_ptr<WebPMux, DeleteMux>;

struct Decoded {
  WebPDecoderConfig config;
  Decoded() { WebPInitDecoderConfig(&config); }
  ~Decoded() { WebPFreeDecBuffer(&config.output); }
};

void check_decoded(VP8StatusCode status, const std::string& where) {
  check(status != VP8_STATUS_OUT_OF_MEMORY, ErrorKind::out_of_memory, "{}: there is not enough memory to decode it",
        where);
  check(status == VP8_STATUS_OK, ErrorKind::bad_file, "{}: is a damaged WebP file: {}", where,
        status == VP8_STATUS_NOT_ENOUGH_DATA ? "the file is cut off" : "it cannot be decoded");
}

Exif exif_of(std::string_view bytes) {
  const WebPData data{data_of(bytes), bytes.size()};
  const Mux mux(WebPMuxCreate(&data, /*copy_data=*/0));
  WebPData chunk{};
  if (!mux || WebPMuxGetChunk(mux.get(), "EXIF", &chunk) != WEBP_MUX_OK) return {};
  return read_exif({reinterpret_cast<const char*>(chunk.bytes), chunk.size});
}

}  // namespace

bool is_webp(std::string_view bytes) {
  return bytes.size() >= 12 && bytes.starts_with("RIFF") && bytes.substr(8, 4) == "WEBP";
}

Image decode_webp(std::string_view bytes, const std::string& where) {
  Decoded decoded;
  auto& [features, output, options] = decoded.config;
  check_decoded(WebPGetFeatures(data_of(bytes), bytes.size(), &features), where);
  check(!features.has_animation, ErrorKind::unsupported, "{}: is an animation. Give a single picture", where);
  const auto width = features.width, height = features.height;
  check_size(static_cast<uint64_t>(width), static_cast<uint64_t>(height), where);
  output.colorspace = MODE_RGBA;
  check_decoded(WebPDecode(data_of(bytes), bytes.size(), &decoded.config), where);
  auto exif = exif_of(bytes);
  auto image = over_white(width, height, output.u.RGBA.rgba);
  image.text = std::move(exif.text);
  return turned(std::move(image), exif.orientation);
}

std::string encode_webp(const Image& image) {
  check_pixels(image, "the picture");
  check(image.width <= WEBP_MAX_DIMENSION && image.height <= WEBP_MAX_DIMENSION, ErrorKind::usage,
        "the picture has {} x {} pixels; a WebP file has at most {} on each side", image.width, image.height,
        WEBP_MAX_DIMENSION);
  const auto exif = write_exif(image.text);
  uint8_t* pixels = nullptr;
  const auto size = WebPEncodeLosslessRGB(image.pixels.data(), image.width, image.height, 3 * image.width, &pixels);
  const std::unique_ptr<uint8_t, decltype(&WebPFree)> owned(pixels, &WebPFree);
  check(size > 0, ErrorKind::io, "WebP cannot be encoded");
  if (exif.empty()) return {reinterpret_cast<const char*>(pixels), size};

  const Mux mux(WebPMuxNew());
  const WebPData picture{pixels, size}, chunk{data_of(exif) + kExifHeader, exif.size() - kExifHeader};
  WebPData file{};
  const bool made = mux && WebPMuxSetImage(mux.get(), &picture, /*copy_data=*/0) == WEBP_MUX_OK &&
                    WebPMuxSetChunk(mux.get(), "EXIF", &chunk, /*copy_data=*/0) == WEBP_MUX_OK &&
                    WebPMuxAssemble(mux.get(), &file) == WEBP_MUX_OK;
  check(made, ErrorKind::io, "WebP cannot be encoded");
  std::string bytes(reinterpret_cast<const char*>(file.bytes), file.size);
  WebPDataClear(&file);
  return bytes;
}

}  // namespace lora
