// JPEG and WebP, transparency and EXIF, compared with Pillow.
#include "io/exif.h"
#include "io/jpeg.h"
#include "io/picture.h"
#include "io/png.h"
#include "io/support.h"
#include "io/webp.h"
#include "lora/image.h"

namespace lora {

namespace {

const StateDict& expected() {
  static const auto all = load_state_dict(data("pictures.expected.safetensors"));
  return all;
}

Tensor plane(const std::vector<uint8_t>& bytes, const Image& image, int64_t channels) {
  return at::tensor(at::ArrayRef<uint8_t>(bytes), at::kByte).view({image.height, image.width, channels});
}

int largest_difference(const Image& image, const Tensor& wanted) {
  auto pixels = plane(image.pixels, image, 3);
  EXPECT_EQ(pixels.sizes(), wanted.sizes());
  return (pixels.to(at::kInt) - wanted.to(at::kInt)).abs().max().item<int>();
}

Image sample(int width = 20, int height = 10) {
  Image image{.width = width, .height = height};
  for (int y = 0; y < height; ++y)
    for (int x = 0; x < width; ++x)
      for (int c : {x * 12, y * 25, (x + y) * 8}) image.pixels.push_back(static_cast<uint8_t>(c));
  return image;
}

}  // namespace

TEST(PictureFormats, AreReadAsPillowReadsThem) {
  for (auto name : {"lossless.webp", "lossless_alpha.webp", "lossy.webp", "lossy_alpha.webp", "rgba.png",
                    "grey_alpha.png", "palette_alpha.png", "colour_key.png"})
    EXPECT_EQ(largest_difference(Image::load(data(name)), expected().at(name)), 0) << name;
  // Versions of libjpeg-turbo may round in another way.
  for (auto name : {"rgb.jpg", "progressive.jpg", "grey.jpg", "cmyk.jpg"})
    EXPECT_LE(largest_difference(Image::load(data(name)), expected().at(name)), 1) << name;
}

TEST(PictureFormats, TheAlphaStaysBesideThePixels) {
  for (auto name : {"lossless_alpha.webp", "lossy_alpha.webp", "rgba.png", "grey_alpha.png", "palette_alpha.png",
                    "colour_key.png"}) {
    auto image = Image::load(data(name));
    ASSERT_EQ(image.alpha.size(), size_t(image.width * image.height)) << name;
    EXPECT_TRUE(same(plane(image.alpha, image, 1), expected().at(std::string(name) + ".alpha"))) << name;
    auto mask = transparency_of(image);
    EXPECT_TRUE(same(plane(mask.pixels, mask, 3), 255 - plane(image.alpha, image, 1).expand({-1, -1, 3}))) << name;
  }
  for (auto name : {"rgb.png", "rgb.jpg", "lossless.webp", "opaque.png"})
    EXPECT_TRUE(Image::load(data(name)).alpha.empty()) << name;
  EXPECT_EQ(transparency_of(sample()).pixels, std::vector<uint8_t>(600, 0));
}

TEST(PictureFormats, AreTurnedAsTheirExifSays) {
  for (int orientation = 1; orientation <= 8; ++orientation) {
    auto name = "turned_" + std::to_string(orientation) + ".webp";
    EXPECT_EQ(largest_difference(Image::load(lora::data(name)), expected().at(name)), 0) << name;
  }
  auto png = Image::load(data("turned_alpha.png"));
  EXPECT_EQ(largest_difference(png, expected().at("turned_alpha.png")), 0);
  EXPECT_TRUE(same(plane(png.alpha, png, 1), expected().at("turned_alpha.png.alpha")));
  EXPECT_LE(largest_difference(Image::load(data("turned.jpg")), expected().at("turned.jpg")), 1);
}

TEST(PictureFormats, TextsOfOtherProgramsAreRead) {
  const std::string a1111 = "a fox, façade 狐\nNegative prompt: blue\nSteps: 20, Sampler: Euler a, Seed: 5";
  EXPECT_EQ(Image::load(data("a1111.jpg")).text.at("parameters"), a1111);
  EXPECT_EQ(Image::load(data("a1111.webp")).text.at("parameters"), a1111);
  EXPECT_EQ(Image::load(data("little_endian.jpg")).text.at("parameters"), a1111);
  EXPECT_EQ(Image::load(data("ascii.jpg")).text.at("parameters"), "a fox");
  auto comfy = Image::load(data("comfyui.webp")).text;
  EXPECT_EQ(comfy.at("prompt"), R"({"3": {"class_type": "KSampler", "inputs": {"seed": 5}}})");
  EXPECT_EQ(comfy.at("workflow"), R"({"nodes": []})");
}

TEST(PictureFormats, AreWrittenByTheirEnding) {
  TemporaryFolder dir;
  auto image = sample();
  image.text = {{"parameters", "naïve 狐 𝄞\nSteps: 3"}, {"lora.cpp", "{\"a\": \"ß\"}"}};
  for (auto name : {"a.png", "a.PNG", "a.webp", "a.jpg", "a.JPEG"}) {
    EXPECT_TRUE(has_image_ending(name));
    image.save(dir / name);
    auto loaded = Image::load(dir / name);
    EXPECT_EQ(loaded.text, image.text) << name;
    const bool is_jpeg_file = name == std::string("a.jpg") || name == std::string("a.JPEG");
    EXPECT_LE(largest_difference(loaded, plane(image.pixels, image, 3)), is_jpeg_file ? 4 : 0) << name;
  }
  EXPECT_TRUE(is_png(read_bytes(dir / "a.PNG")));
  EXPECT_TRUE(is_webp(read_bytes(dir / "a.webp")));
  EXPECT_TRUE(is_jpeg(read_bytes(dir / "a.JPEG")));
  EXPECT_EQ(image.png(), read_bytes(dir / "a.png"));
  EXPECT_EQ(dir.names().size(), 5u);
  // Without texts, there is no EXIF.
  image.text.clear();
  for (auto name : {"a.webp", "a.jpg"}) {
    image.save(dir / name);
    EXPECT_TRUE(Image::load(dir / name).text.empty());
    EXPECT_EQ(read_bytes(dir / name).find("UNICODE"), std::string::npos);
  }
  for (auto name : {"a.gif", "a", "a.png.txt"}) {
    EXPECT_FALSE(has_image_ending(name));
    EXPECT_TRUE(fails(ErrorKind::usage, "Give a name that ends in .png, .jpg, .jpeg or .webp",
                      [&] { image.save(dir / name); }));
  }
}

TEST(PictureFormats, RefuseWhatTheyCannotHold) {
  auto image = sample();
  image.text["parameters"] = std::string(40000, 'x');
  EXPECT_TRUE(fails(ErrorKind::usage, "at most 65533. Write a PNG file", [&] { encode_jpeg(image); }));
  EXPECT_TRUE(fails(ErrorKind::usage, "at most 65533. Write a PNG file", [&] { encode_webp(image); }));
  image.text["parameters"] = std::string(30000, 'x');
  EXPECT_EQ(decode_jpeg(encode_jpeg(image), "f").text, image.text);
  EXPECT_EQ(decode_webp(encode_webp(image), "f").text, image.text);
  EXPECT_TRUE(fails(ErrorKind::usage, "at most 16383", [] { encode_webp(sample(16384, 1)); }));
  EXPECT_TRUE(fails(ErrorKind::usage, "at most 65500", [] { encode_jpeg(sample(1, 65501)); }));
  EXPECT_TRUE(fails(ErrorKind::usage, "0 x 0", [] { encode_jpeg({}); }));
  EXPECT_TRUE(fails(ErrorKind::usage, "0 x 0", [] { encode_webp({}); }));
}

TEST(PictureFormats, TheContentCountsAndNotTheEnding) {
  TemporaryFolder dir;
  auto image = sample();
  auto file = dir.write("a.png", encode_webp(image));
  EXPECT_EQ(Image::load(file).pixels, image.pixels);
  EXPECT_TRUE(fails(ErrorKind::bad_file, "is not a PNG, JPEG or WebP file",
                    [&] { Image::load(dir.write("a.jpg", "GIF89a")); }));
  EXPECT_TRUE(fails(ErrorKind::unsupported, "is an animation", [] { Image::load(data("animation.webp")); }));
  EXPECT_TRUE(fails(ErrorKind::unsupported, "arithmetic coding", [] { Image::load(data("arithmetic.jpg")); }));
}

TEST(PictureFormats, CutFilesAreRefused) {
  for (auto name : {"rgb.jpg", "progressive.jpg", "cmyk.jpg", "lossless.webp", "lossy_alpha.webp", "a1111.webp"}) {
    const auto good = read_bytes(data(name));
    // The last two bytes of a JPEG file say that it ends.
    for (size_t size = 0; size + 2 < good.size(); ++size)
      EXPECT_TRUE(fails(ErrorKind::bad_file, "f: is ", [&] { decode_picture(good.substr(0, size), "f"); }))
          << name << " " << size;
  }
}

TEST(PictureFormats, ClaimsBeyondTheFileAreRefused) {
  auto jpeg = read_bytes(data("grey.jpg"));
  const auto frame = jpeg.find("\xFF\xC0");
  jpeg.replace(frame + 5, 4, std::string("\x40\x00\x40\x00", 4));
  EXPECT_TRUE(fails(ErrorKind::bad_file, "says it has 16384 x 16384 pixels, which", [&] { decode_jpeg(jpeg, "f"); }));
  jpeg.replace(frame + 5, 4, std::string("\xFF\x00\xFF\x00", 4));
  EXPECT_TRUE(fails(ErrorKind::unsupported, "at most 268435456 are read", [&] { decode_jpeg(jpeg, "f"); }));
}

TEST(PictureFormats, DamagedExifIsNoObstacle) {
  EXPECT_EQ(read_exif("").orientation, 1);
  EXPECT_EQ(read_exif(std::string("Exif\0\0MM\0*\xFF\xFF\xFF\xFF", 14)).text.size(), 0u);
  auto whole = write_exif({{"parameters", "x"}, {"a", "b"}});
  for (size_t size = 0; size < whole.size(); ++size) read_exif(whole.substr(0, size));
  EXPECT_EQ(read_exif(whole).text.size(), 2u);
  EXPECT_EQ(write_exif({}), "");
}

}  // namespace lora
