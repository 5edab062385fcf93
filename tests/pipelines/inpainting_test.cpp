// What inpainting puts back: the pixels of the picture, feathered, or around a part that is drawn on its own. What
// diffusers makes of the same calls is in tiny_pipelines_test.cpp.
#include <gmock/gmock.h>

#include "pipelines/image_processor.h"
#include "pipelines/tiny_pipelines.h"

namespace lora {

namespace {

using testing::HasSubstr;

Image mask(int width, int height, Region white) {
  Image image{width, height, std::vector<uint8_t>(size_t(width * height * 3)), {}};
  for (auto y = white.top; y < white.bottom; ++y)
    for (auto x = white.left; x < white.right; ++x)
      for (int c = 0; c < 3; ++c) image.pixels[size_t((y * width + x) * 3 + c)] = 255;
  return image;
}

Tensor bytes(const Image& image) { return to_bytes(image, "image"); }

// How many pixels differ, inside a region or outside it.
int64_t differing(const Image& a, const Image& b, const Region& region, bool inside) {
  auto differs = bytes(a).ne(bytes(b)).any(1);
  auto within = region.of(differs).sum().item<int64_t>();
  return inside ? within : differs.sum().item<int64_t>() - within;
}

// The square that the masks of these tests have white, and what a blur of it with the factor 2 reaches.
const Region kSquare{12, 4, 24, 16}, kBlurred{6, 0, 30, 22};

CallOptions options(const Image& picture, const Image& white = mask(32, 32, kSquare)) {
  return {.image = picture, .mask_image = white, .strength = 0.8, .num_inference_steps = 4, .seed = {3}};
}

}  // namespace

class Inpainting : public testing::TestWithParam<std::string> {
 protected:
  std::unique_ptr<DiffusionPipeline> pipe_ = tiny::open(GetParam());
  const Image picture_ = tiny::picture("inpainting", {32, 32});

  std::vector<Image> draw(const CallOptions& o) const { return (*pipe_)("red apple", o); }
  void expect_refused(const CallOptions& o, const std::string& words) const {
    EXPECT_THAT(error_of(ErrorKind::usage, [&] { draw(o); }), HasSubstr(words));
  }
};

INSTANTIATE_TEST_SUITE_P(Pipelines, Inpainting,
                         testing::Values("sd", "sd-inpaint", "sdxl", "sd3", "amused-256", "amused-512"),
                         tiny::test_name);

TEST_P(Inpainting, PutsBackWhatIsFarFromTheMask) {
  auto o = options(picture_);
  EXPECT_GT(differing(draw(o).front(), picture_, kSquare, false), 0);
  o.apply_overlay = true;
  auto sharp = draw(o).front();
  EXPECT_EQ(differing(sharp, picture_, kSquare, false), 0);
  EXPECT_GT(differing(sharp, picture_, kSquare, true), 100);
  o.blur_factor = 2;
  auto feathered = draw(o).front();
  EXPECT_EQ(differing(feathered, picture_, kBlurred, false), 0);
  EXPECT_GT(differing(feathered, picture_, kSquare, false), 0);
  EXPECT_GT(differing(feathered, sharp, kSquare, true), 0);
}

TEST_P(Inpainting, NotesWhatChangesAPictureOrMask) {
  auto notes_of = [&](CallOptions o) {
    std::vector<std::string> notes;
    o.callback_on_note = [&](const std::string& text) { notes.push_back(text); };
    draw(o);
    return notes;
  };
  auto o = options(picture_);
  EXPECT_THAT(notes_of(o), testing::IsEmpty());
  o.mask_image = mask(32, 16, {0, 0, 16, 16});
  EXPECT_THAT(notes_of(o), testing::ElementsAre(HasSubstr("mask_image is 32x16. It is stretched")));
  o.mask_image = mask(16, 16, {});
  EXPECT_THAT(notes_of(o), testing::ElementsAre(HasSubstr("mask_image is black everywhere")));
  o.mask_image = mask(16, 16, {0, 0, 16, 16});
  o.invert_mask = true;
  EXPECT_THAT(notes_of(o), testing::ElementsAre(HasSubstr("mask_image is white everywhere")));
  auto odd = options(tiny::picture("inpainting", {32, 33}));
  EXPECT_THAT(notes_of(odd), testing::Contains(HasSubstr("the width of the image is 33 pixels. It is resized to 32")));
  expect_refused(options(tiny::picture("inpainting", {1, 32})), "the image has 32x1 pixels");
}

TEST_P(Inpainting, PutsEverythingBackWhereTheMaskIsBlack) {
  auto o = options(picture_, mask(32, 32, {}));
  o.apply_overlay = true;
  EXPECT_EQ(draw(o).front().pixels, picture_.pixels);
  o.blur_factor = 4;
  EXPECT_EQ(draw(o).front().pixels, picture_.pixels);
  // The mask that is white everywhere, inverted.
  o.mask_image = mask(32, 32, {0, 0, 32, 32});
  o.invert_mask = true;
  EXPECT_EQ(draw(o).front().pixels, picture_.pixels);
}

TEST_P(Inpainting, InvertsTheMask) {
  auto o = options(picture_);
  o.apply_overlay = o.invert_mask = true;
  auto inverted = draw(o).front();
  EXPECT_EQ(differing(inverted, picture_, kSquare, true), 0);
  EXPECT_GT(differing(inverted, picture_, kSquare, false), 100);
}

TEST_P(Inpainting, ResizesWhatItPutsBack) {
  auto o = options(tiny::picture("inpainting", {40, 56}), mask(56, 40, {}));
  o.apply_overlay = true;
  o.height = 32, o.width = 48;
  auto drawn = draw(o).front();
  EXPECT_TRUE(at::equal(bytes(drawn), resize(bytes(o.image.front()), 32, 48)));
}

TEST_P(Inpainting, DrawsAPartOnItsOwn) {
  const auto large = tiny::picture("large", {60, 90});
  const Region white{50, 20, 70, 40}, part{47, 17, 73, 43};
  auto o = options(large, mask(90, 60, white));
  o.padding_mask_crop = 3;
  o.height = o.width = 32;
  auto drawn = draw(o).front();
  EXPECT_EQ(drawn.width, 90);
  EXPECT_EQ(drawn.height, 60);
  EXPECT_EQ(differing(drawn, large, white, false), 0);
  EXPECT_GT(differing(drawn, large, white, true), 200);
  // The part is what the pipeline draws for a picture of that part.
  auto alone = o;
  alone.padding_mask_crop.reset();
  alone.image = to_image(part.of(bytes(large)));
  alone.mask_image = to_image(part.of(bytes(o.mask_image.front())));
  auto inner = draw(alone).front();
  auto back = resize(bytes(inner), 26, 26);
  auto square = [](const Tensor& t) { return Region{3, 3, 23, 23}.of(t); };
  EXPECT_TRUE(at::equal(square(part.of(bytes(drawn))), square(back)));
  // Without a size, it is drawn at the model's own size.
  o.height = o.width = 0;
  const auto own = GetParam().starts_with("amused") ? 16 : 32;
  alone.height = alone.width = own;
  EXPECT_TRUE(at::equal(square(part.of(bytes(draw(o).front()))), square(resize(bytes(draw(alone).front()), 26, 26))));
}

// Each picture of a batch, with masks of its own, is what its seed draws alone.
TEST_P(Inpainting, DrawsABatchAsItsPicturesAlone) {
  for (bool crops : {false, true}) {
    SCOPED_TRACE(crops);
    auto o = options(picture_);
    o.mask_image = {mask(32, 32, kSquare), mask(32, 32, {4, 8, 30, 30})};
    o.num_images_per_prompt = 2;
    o.seed = {3, 4};
    o.blur_factor = 1;
    crops ? void(o.padding_mask_crop = 2) : void(o.apply_overlay = true);
    auto both = draw(o);
    for (size_t i : {0, 1}) {
      auto one = o;
      one.mask_image = o.mask_image[i];
      one.seed = {o.seed[i]};
      one.num_images_per_prompt = 1;
      auto alone = draw(one).front();
      auto difference = (bytes(both[i]).to(at::kInt) - bytes(alone).to(at::kInt)).abs().max().item<int>();
      EXPECT_LE(difference, 1) << i;
    }
  }
}

TEST_P(Inpainting, AnAdapterChangesTheMaskedPartAlone) {
  auto o = options(picture_);
  o.apply_overlay = true;
  auto without = draw(o).front();
  pipe_->load_lora_weights(tiny::factors(*pipe_, "ink", {"to_q", "to_v", "query", "value", "fc1"}, 2));
  auto with = draw(o).front();
  EXPECT_EQ(differing(with, without, kSquare, false), 0);
  EXPECT_GT(differing(with, without, kSquare, true), 0);
}

TEST_P(Inpainting, WhatCannotApplyIsNamed) {
  const CallOptions none{.num_inference_steps = 2, .seed = {1}};
  auto with = [](CallOptions o, auto&& change) {
    change(o);
    return o;
  };
  if (GetParam() != "sd-inpaint") {
    expect_refused(with(none, [](auto& o) { o.padding_mask_crop = 4; }), "padding_mask_crop needs a mask_image");
    expect_refused(with(none, [](auto& o) { o.blur_factor = 4; }), "blur_factor needs a mask_image");
    expect_refused(with(none, [](auto& o) { o.invert_mask = true; }), "invert_mask needs a mask_image");
    expect_refused(with(none, [](auto& o) { o.apply_overlay = true; }), "apply_overlay needs a mask_image");
  }
  const auto given = options(picture_);
  expect_refused(with(given, [](auto& o) { o.padding_mask_crop = -1; }), "padding_mask_crop is -1");
  expect_refused(with(given, [](auto& o) { o.blur_factor = -1; }), "blur_factor is -1");
  expect_refused(with(given, [](auto& o) { o.blur_factor = 1001; }), "0 to 1000");
  expect_refused(with(given, [](auto& o) { o.blur_factor = 9; }), "blur_factor is 9, which leaves no white part");
  expect_refused(with(options(picture_, mask(32, 32, {})), [](auto& o) { o.padding_mask_crop = 2; }),
                 "mask_image is black everywhere");
}

TEST(AmusedImages, AtFullStrengthAnImageIsDrawnAsFromText) {
  auto pipe = tiny::open("amused-256");
  CallOptions o{.num_inference_steps = 4, .seed = {1}};
  auto wanted = pipe->generate_latents("red apple", o);
  o.image = tiny::picture("inpainting", {16, 16});
  o.strength = 1;
  EXPECT_TRUE(at::equal(pipe->generate_latents("red apple", o), wanted));
  o.strength = 0.2;
  EXPECT_THAT(error_of(ErrorKind::usage, [&] { pipe->generate_latents("red apple", o); }), HasSubstr("no steps"));
  o.strength = 0.5;
  o.latents = wanted;
  EXPECT_THAT(error_of(ErrorKind::usage, [&] { pipe->generate_latents("red apple", o); }),
              HasSubstr("latents and an image"));
}

}  // namespace lora
