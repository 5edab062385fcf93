#include "lora/image.h"

#include "io/png.h"
#include "io/support.h"

namespace lora {

namespace {

Tensor pixels_of(const Image& image) {
  return at::from_blob(const_cast<uint8_t*>(image.pixels.data()), {image.height, image.width, 3}, at::kByte).clone();
}

Image sample() {
  Image image{3, 2, {}, {}};
  for (int i = 0; i < 18; ++i) image.pixels.push_back(static_cast<uint8_t>(i * 13));
  return image;
}

}  // namespace

TEST(Image, EveryKindOfPngBecomesRgb) {
  auto expected = load_state_dict(data("pictures.expected.safetensors"));
  for (auto name : {"rgb", "grey", "bit", "palette", "grey16"})
    EXPECT_TRUE(same(pixels_of(Image::load(data(std::string(name) + ".png"))), expected.at(name))) << name;
}

TEST(Image, BecomesGreyAsInPillow) {
  Image image{3, 1, {255, 0, 0, 0, 255, 0, 10, 20, 30}, {}};
  auto grey = to_grey(image);
  EXPECT_EQ(grey.sizes(), (std::vector<int64_t>{1, 3}));
  EXPECT_TRUE(at::equal((grey * 255).round(), at::tensor({76.f, 150.f, 18.f}).unsqueeze(0)));
  image.pixels.pop_back();
  EXPECT_TRUE(fails(ErrorKind::usage, "wanted width x height x 3", [&] { to_grey(image); }));
}

TEST(Image, TextIsReadAsUtf8) {
  auto text = Image::load(data("rgb.png")).text;
  EXPECT_EQ(text.at("parameters"), "a fox\nSteps: 20, façade");
  EXPECT_EQ(text.at("Title"), "狐");
  EXPECT_EQ(text.at("long").size(), 500u);
}

TEST(Image, SavesAndLoads) {
  TemporaryFolder dir;
  Image image = sample();
  image.text = {{"parameters", "naïve\nlines"}, {"prompt", "狐の嫁入り"}, {"empty", ""}, {"schlüssel", "ß"}};
  image.save(dir / "a.png");
  Image loaded = Image::load(dir / "a.png");
  EXPECT_EQ(loaded.width, 3);
  EXPECT_EQ(loaded.height, 2);
  EXPECT_EQ(loaded.pixels, image.pixels);
  EXPECT_EQ(loaded.text, image.text);
  EXPECT_EQ(dir.names().size(), 1u);
  auto bytes = read_bytes(dir / "a.png");
  EXPECT_NE(bytes.find("tEXtparameters"), bytes.npos);
  EXPECT_NE(bytes.find("iTXtprompt"), bytes.npos);
}

TEST(Image, RefusesWhatPngCannotHold) {
  auto with_text = [](const std::string& keyword, const std::string& text) {
    Image image = sample();
    image.text[keyword] = text;
    return [image] { encode_png(image); };
  };
  for (auto keyword : {"", " a", "a ", "狐", "a\nb", "\xff"})
    EXPECT_TRUE(fails(ErrorKind::usage, "a keyword has 1 to 79", with_text(keyword, "x"))) << keyword;
  EXPECT_TRUE(fails(ErrorKind::usage, "a keyword has 1 to 79", with_text(std::string(80, 'a'), "x")));
  EXPECT_TRUE(fails(ErrorKind::usage, "0 x 0 with 0 bytes", [] { encode_png({}); }));
  EXPECT_TRUE(fails(ErrorKind::usage, "3 x 3 with 18 bytes", [] {
    Image image = sample();
    image.height = 3;
    encode_png(image);
  }));
}

TEST(Image, TextThatPngDoesNotAllowIsEscaped) {
  TemporaryFolder dir;
  const std::pair<std::string, const char*> rows[] = {{"caf\xe9", "caf\\xe9"},
                                                      {"日\xe9", "日\\xe9"},
                                                      {std::string("a\0b", 3), "a\\x00b"},
                                                      {"\x1b[31m \r\u009b", "\\x1b[31m \\r\\u009b"},
                                                      {"two\nlines\tand \u202e", "two\nlines\tand \u202e"}};
  for (const auto& [text, stored] : rows) {
    Image image = sample();
    image.text["prompt"] = text;
    image.save(dir / "a.png");
    EXPECT_EQ(Image::load(dir / "a.png").text.at("prompt"), stored);
  }
}

TEST(Image, DamagedFilesAreRefused) {
  auto good = read_bytes(data("rgb.png"));
  EXPECT_TRUE(fails(ErrorKind::bad_file, "f: is not a PNG file", [] { decode_png("GIF89a", "f"); }));
  EXPECT_TRUE(fails(ErrorKind::not_found, "no such file", [] { Image::load(data("none.png")); }));
  for (size_t size = 8; size + 12 < good.size(); ++size)
    EXPECT_TRUE(fails(ErrorKind::bad_file, "f: is a damaged PNG file", [&] { decode_png(good.substr(0, size), "f"); }))
        << size;
}

TEST(Image, ClaimsBeyondTheFileAreRefused) {
  // Only a header with a valid checksum.
  auto header = [](const char* sizes_and_crc) {
    return std::string("\x89PNG\r\n\x1a\n\0\0\0\rIHDR", 16) + std::string(sizes_and_crc, 17) +
           std::string("\0\0\0\0IDAT", 8);
  };
  auto tall = header("\0\0\x27\x10\0\0\x27\x10\x08\x02\0\0\0\x35\x2c\xf5\x70");  // 10000 x 10000
  EXPECT_TRUE(fails(ErrorKind::bad_file, "says it has 10000 x 10000 pixels, which 41 bytes cannot hold",
                    [&] { decode_png(tall, "f"); }));
}

TEST(Image, TensorsBecomePixelsAsInTheReference) {
  auto expected = load_state_dict(data("pictures.expected.safetensors"));
  for (auto dtype : {"float32", "float16", "bfloat16"}) {
    auto images = to_images(expected.at(std::string(dtype) + ".batch"));
    auto pixels = expected.at(std::string(dtype) + ".pixels");
    ASSERT_EQ(images.size(), 2u);
    for (int i = 0; i < 2; ++i) EXPECT_TRUE(same(pixels_of(images[i]), pixels[i])) << dtype;
  }
}

TEST(Image, TensorsOutOfRangeAreClamped) {
  auto batch = at::zeros({1, 3, 1, 3});
  batch.select(3, 0).fill_(-2);
  batch.select(3, 1).fill_(1.5);
  batch.select(3, 2).fill_(INFINITY);
  auto pixels = to_images(batch)[0].pixels;
  EXPECT_EQ(pixels, (std::vector<uint8_t>{0, 0, 0, 255, 255, 255, 255, 255, 255}));
}

TEST(Image, OtherTensorsAreRefused) {
  EXPECT_TRUE(fails(ErrorKind::usage, "got float32 of [2, 3]", [] { to_images(at::zeros({2, 3})); }));
  EXPECT_TRUE(fails(ErrorKind::usage, "got float32 of [1, 4, 2, 2]", [] { to_images(at::zeros({1, 4, 2, 2})); }));
  EXPECT_TRUE(fails(ErrorKind::usage, "got uint8", [] { to_images(at::zeros({1, 3, 2, 2}, at::kByte)); }));
  EXPECT_TRUE(fails(ErrorKind::usage, "got nothing", [] { to_images(Tensor()); }));
  EXPECT_TRUE(fails(ErrorKind::usage, "the batch has NaN", [] { to_images(at::full({1, 3, 2, 2}, NAN)); }));
}

}  // namespace lora
