#include "lora/picture_grid.h"

#include "io/support.h"

namespace lora {

namespace {

Image picture(int width, int height, uint8_t grey) {
  return {width, height, std::vector<uint8_t>(size_t(width) * size_t(height) * 3, grey), {}};
}

Image part(const Image& image, const GridPlace& place) {
  Image part{place.width, place.height, {}, {}};
  for (int y = 0; y < place.height; ++y) {
    const auto* row = image.pixels.data() + (size_t(place.y + y) * size_t(image.width) + size_t(place.x)) * 3;
    part.pixels.insert(part.pixels.end(), row, row + place.width * 3);
  }
  return part;
}

// How many pixels of a part are not white.
size_t ink(const Image& image, const GridPlace& place) {
  const auto pixels = part(image, place).pixels;
  return size_t(std::count_if(pixels.begin(), pixels.end(), [](uint8_t value) { return value != 255; })) / 3;
}

}  // namespace

TEST(PictureGrid, PutsEachPictureIntoItsCell) {
  const std::vector<Image> images{picture(8, 8, 10), picture(4, 6, 20), picture(8, 2, 30), picture(2, 2, 40)};
  const auto grid = picture_grid(images, {"", ""}, {"", ""});
  // Columns of 8 and 4 pixels, rows of 8 and 2 pixels, and 4 pixels around each.
  EXPECT_EQ(std::pair(grid.image.width, grid.image.height), std::pair(24, 22));
  const std::vector<std::array<int, 4>> wanted{{4, 4, 8, 8}, {16, 5, 4, 6}, {4, 16, 8, 2}, {17, 16, 2, 2}};
  ASSERT_EQ(grid.places.size(), 4u);
  for (size_t i = 0; i < 4; ++i) {
    const auto& place = grid.places[i];
    EXPECT_EQ((std::array{place.x, place.y, place.width, place.height}), wanted[i]) << i;
    EXPECT_EQ(part(grid.image, place).pixels, images[i].pixels) << i;
  }
  EXPECT_EQ(ink(grid.image, {0, 0, 24, 22}), 64u + 24 + 16 + 4);
}

TEST(PictureGrid, LabelsAreAboveAndAtTheLeft) {
  const auto images = std::vector<Image>(4, picture(64, 64, 100));
  const auto grid = picture_grid(images, {"no LoRA", "ink × 0.5"}, {"red apple", ""});
  const auto& first = grid.places[0];
  EXPECT_GT(first.x, 40);
  EXPECT_GT(first.y, 14);
  for (const auto& place : {grid.places[0], grid.places[1]}) EXPECT_GT(ink(grid.image, {place.x, 0, 64, first.y}), 50u);
  EXPECT_GT(ink(grid.image, {0, first.y, first.x, 64}), 50u);
  EXPECT_EQ(ink(grid.image, {0, grid.places[2].y, first.x, 64}), 0u);  // the second row has no label
  EXPECT_EQ(ink(grid.image, {0, 0, first.x, first.y}), 0u);
  for (const auto& place : grid.places) EXPECT_EQ(part(grid.image, place).pixels, images[0].pixels);
  // The label of the only row takes no room at the top.
  EXPECT_EQ(picture_grid({images[0]}, {""}, {"red apple"}).places[0].y, 4);
}

TEST(PictureGrid, ALongLabelWrapsAndIsCut) {
  const auto images = std::vector<Image>(1, picture(64, 64, 100));
  const auto top = [&](const std::string& label) { return picture_grid(images, {label}, {""}).places[0].y; };
  const auto left = [&](const std::string& label) { return picture_grid(images, {""}, {label}).places[0].x; };
  std::string words, word(1000, 'x');
  for (int i = 0; i < 200; ++i) words += "words ";
  const int line = top("words") - 8, lines = top(words) - 8;
  EXPECT_GE(lines, 4 * line);
  EXPECT_LE(lines, 4 * line + 4);
  EXPECT_EQ(top(word) - 8, lines);
  EXPECT_EQ(top("two\nlines"), top("two"));  // a line break is no new line
  EXPECT_LT(left("words"), left(words));
  EXPECT_LE(left(words), 12 * 11 + 1 + 8);
  const auto grid = picture_grid(images, {words}, {words});
  EXPECT_EQ(part(grid.image, grid.places[0]).pixels, images[0].pixels);
  // What is cut is not drawn: the same text with more of it looks the same.
  EXPECT_EQ(grid.image.pixels, picture_grid(images, {words + "more"}, {words + "more"}).image.pixels);
  EXPECT_NE(grid.image.pixels, picture_grid(images, {words.substr(0, 23)}, {words}).image.pixels);
}

TEST(PictureGrid, LabelsAreOfAnyScript) {
  const auto images = std::vector<Image>(1, picture(256, 64, 100));
  std::vector<std::vector<uint8_t>> drawn;
  for (const char* label : {"naïve", "кот", "γάτα", "חתול", "قطة", "\xff\xfe"}) {
    const auto grid = picture_grid(images, {label}, {""});
    EXPECT_GT(ink(grid.image, {0, 0, grid.image.width, grid.places[0].y}), 20u) << label;
    EXPECT_EQ(std::count(drawn.begin(), drawn.end(), grid.image.pixels), 0) << label;
    drawn.push_back(grid.image.pixels);
  }
}

TEST(PictureGrid, RefusesWhatDoesNotFit) {
  const auto image = picture(2, 2, 0);
  EXPECT_TRUE(fails(ErrorKind::usage, "1 images for 2 columns and 1 rows", [&] {
    picture_grid({image}, {"", ""}, {""});
  }));
  EXPECT_TRUE(fails(ErrorKind::usage, "0 images for 0 columns and 0 rows", [&] { picture_grid({}, {}, {}); }));
  auto broken = image;
  broken.pixels.pop_back();
  EXPECT_TRUE(fails(ErrorKind::usage, "wanted width x height x 3", [&] { picture_grid({broken}, {""}, {""}); }));
}

}  // namespace lora
