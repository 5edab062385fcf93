#include "lora/picture_grid.h"

#include <algorithm>
#include <optional>

#include "core/check.h"
#include "core/edge.h"
#include "io/label.h"
#include "io/png.h"

namespace lora {

namespace {

constexpr int kGap = 4;           // between pictures and labels, in pixels
constexpr int kLines = 4;         // of a column's label
constexpr int kRowLabelEms = 12;  // the least room for the label of a row, in sizes of the font

// Legible beside pictures of any size.
int font_size(int picture_width) { return std::clamp(picture_width / 20, 11, 40); }

// The first pixel of each part, and after the last one the end. Parts without a size take no room.
std::vector<int> begins(const std::vector<int>& sizes) {
  std::vector<int> all{kGap};
  for (int size : sizes) all.push_back(all.back() + size + (size ? kGap : 0));
  return all;
}

class Canvas {
 public:
  Canvas(int width, int height)
      : image_{width, height, std::vector<uint8_t>(size_t(width) * size_t(height) * 3, 255), {}} {}

  void put(const Image& picture, int x, int y) {
    const auto bytes = size_t(picture.width) * 3;
    for (int row = 0; row < picture.height; ++row)
      std::copy_n(picture.pixels.data() + size_t(row) * bytes, bytes, at(x, y + row));
  }
  void put_grey(const std::vector<uint8_t>& box, int width, int x, int y) {
    for (size_t i = 0; i < box.size(); ++i) std::fill_n(at(x + int(i) % width, y + int(i) / width), 3, box[i]);
  }
  Image take() { return std::move(image_); }

 private:
  uint8_t* at(int x, int y) { return image_.pixels.data() + (size_t(y) * size_t(image_.width) + size_t(x)) * 3; }

  Image image_;
};

PictureGrid composed(const std::vector<Image>& images, const std::vector<std::string>& columns,
                     const std::vector<std::string>& rows) {
  check(!images.empty() && images.size() == columns.size() * rows.size(), ErrorKind::usage,
        "picture_grid: {} images for {} columns and {} rows", images.size(), columns.size(), rows.size());
  for (const auto& image : images) check_pixels(image, "picture_grid");
  // The first part of a row is the labels of the rows, that of a column the labels of the columns.
  std::vector<int> widths(columns.size() + 1), heights(rows.size() + 1);
  for (size_t i = 0; i < images.size(); ++i) {
    auto &width = widths[i % columns.size() + 1], &height = heights[i / columns.size() + 1];
    width = std::max(width, images[i].width);
    height = std::max(height, images[i].height);
  }
  const auto [least, most] = std::minmax_element(widths.begin() + 1, widths.end());
  const int em = font_size(*least), row_room = std::max(*most, kRowLabelEms * em);
  auto has_text = [](const std::vector<std::string>& labels) {
    return std::any_of(labels.begin(), labels.end(), [](auto& label) { return !label.empty(); });
  };
  std::optional<LabelFont> font;
  if (has_text(columns) || has_text(rows)) font.emplace(em);
  for (size_t r = 0; font && r < rows.size(); ++r)
    widths[0] = std::max(widths[0], font->extent(rows[r], row_room, heights[r + 1] / em).width);
  for (size_t c = 0; font && c < columns.size(); ++c)
    heights[0] = std::max(heights[0], font->extent(columns[c], widths[c + 1], kLines).height);

  const auto x = begins(widths), y = begins(heights);
  Canvas canvas(x.back(), y.back());
  for (size_t c = 0; font && c < columns.size(); ++c)
    canvas.put_grey(font->draw(columns[c], widths[c + 1], heights[0], kLines), widths[c + 1], x[c + 1], y[0]);
  for (size_t r = 0; font && widths[0] > 0 && r < rows.size(); ++r) {
    const auto lines = font->fitting_lines(rows[r], widths[0], heights[r + 1], heights[r + 1] / em);
    canvas.put_grey(font->draw(rows[r], widths[0], heights[r + 1], lines), widths[0], x[0], y[r + 1]);
  }
  PictureGrid grid;
  for (size_t i = 0; i < images.size(); ++i) {
    const auto c = i % columns.size() + 1, r = i / columns.size() + 1;
    const auto& image = images[i];
    grid.places.push_back(
        {x[c] + (widths[c] - image.width) / 2, y[r] + (heights[r] - image.height) / 2, image.width, image.height});
    canvas.put(image, grid.places.back().x, grid.places.back().y);
  }
  grid.image = canvas.take();
  return grid;
}

}  // namespace

PictureGrid picture_grid(const std::vector<Image>& images, const std::vector<std::string>& columns,
                         const std::vector<std::string>& rows) {
  return edge([&] { return composed(images, columns, rows); });
}

}  // namespace lora
