#pragma once
// Pictures side by side, with labels.
#include <string>
#include <vector>

#include "lora/image.h"

namespace lora {

// Where a picture is in a grid, in pixels from the left upper corner.
struct GridPlace {
  int x = 0, y = 0, width = 0, height = 0;
};

struct PictureGrid {
  Image image;
  std::vector<GridPlace> places;  // of each picture, in the order of the pictures
};

// Puts pictures into one picture: `columns.size()` columns and `rows.size()` rows, row by row. The pictures may differ
// in size. A column is as wide as its widest picture, a row is as high as its highest one, and each picture is in the
// middle of its cell.
//
// The labels of the columns are above them, and the labels of the rows at their left. Labels are UTF-8 of any script.
// A long label is wrapped, and ends with "…" where it has no room. An empty label is allowed: without any text, the
// labels take no room.
//
// Throws Error{usage} where the number of pictures is not columns × rows, or is 0, and for an image whose pixels do not
// fit its size. Throws Error{not_found} where a label has text and the system has no font.
// Threads: any number of threads may call it at once.
PictureGrid picture_grid(const std::vector<Image>& images, const std::vector<std::string>& columns,
                         const std::vector<std::string>& rows);

}  // namespace lora
