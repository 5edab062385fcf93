#include "io/label.h"

#include <pango/pangocairo.h>

#include <algorithm>

#include "core/check.h"
#include "lora/text.h"

namespace lora {

namespace {

template <class T>
using Object = std::unique_ptr<T, decltype(&g_object_unref)>;

template <class T>
Object<T> owned(T* object) {
  return {object, &g_object_unref};
}

}  // namespace

struct LabelFont::Impl {
  Object<PangoFontMap> fonts = owned(pango_cairo_font_map_new());
  Object<PangoContext> context = owned(pango_font_map_create_context(fonts.get()));
  std::unique_ptr<PangoFontDescription, decltype(&pango_font_description_free)> font{
      pango_font_description_from_string("DejaVu Sans, sans-serif"), &pango_font_description_free};

  // A text in at most `lines` lines of `width` pixels.
  Object<PangoLayout> layout(const std::string& text, int width, int lines) const {
    auto result = owned(pango_layout_new(context.get()));
    pango_layout_set_font_description(result.get(), font.get());
    pango_layout_set_wrap(result.get(), PANGO_WRAP_WORD_CHAR);
    pango_layout_set_ellipsize(result.get(), PANGO_ELLIPSIZE_END);
    pango_layout_set_alignment(result.get(), PANGO_ALIGN_CENTER);
    pango_layout_set_width(result.get(), width * PANGO_SCALE);
    pango_layout_set_height(result.get(), -lines);
    const auto line = printable(text);  // without line breaks, which would begin a paragraph
    pango_layout_set_text(result.get(), line.data(), int(line.size()));
    return result;
  }
};

LabelFont::LabelFont(int size) : impl_(std::make_unique<Impl>()) {
  PangoFontFamily** families = nullptr;
  int count = 0;
  pango_font_map_list_families(impl_->fonts.get(), &families, &count);
  g_free(families);
  check(count > 0, ErrorKind::not_found,
        "the system has no font for labels. Install one, such as Debian's package fonts-dejavu-core");
  pango_font_description_set_absolute_size(impl_->font.get(), double(size) * PANGO_SCALE);
  std::unique_ptr<cairo_font_options_t, decltype(&cairo_font_options_destroy)> options{cairo_font_options_create(),
                                                                                       &cairo_font_options_destroy};
  cairo_font_options_set_antialias(options.get(), CAIRO_ANTIALIAS_GRAY);  // the same on every screen
  pango_cairo_context_set_font_options(impl_->context.get(), options.get());
}

LabelFont::~LabelFont() = default;

LabelFont::Extent LabelFont::extent(const std::string& text, int width, int lines) const {
  if (text.empty()) return {0, 0};
  const auto layout = impl_->layout(text, width, lines);
  Extent extent{};
  pango_layout_get_pixel_size(layout.get(), &extent.width, &extent.height);
  extent.width += 1;  // Pango rounds: in less room, the text could wrap at another place
  return extent;
}

int LabelFont::fitting_lines(const std::string& text, int width, int height, int lines) const {
  while (lines > 1 && extent(text, width, lines).height > height) --lines;
  return std::max(lines, 1);
}

std::vector<uint8_t> LabelFont::draw(const std::string& text, int width, int height, int lines) const {
  std::vector<uint8_t> box(size_t(width) * size_t(height), 255);
  if (text.empty() || box.empty()) return box;
  const int stride = cairo_format_stride_for_width(CAIRO_FORMAT_A8, width);
  std::vector<uint8_t> ink(size_t(stride) * size_t(height));
  const std::unique_ptr<cairo_surface_t, decltype(&cairo_surface_destroy)> surface{
      cairo_image_surface_create_for_data(ink.data(), CAIRO_FORMAT_A8, width, height, stride), &cairo_surface_destroy};
  const std::unique_ptr<cairo_t, decltype(&cairo_destroy)> cairo{cairo_create(surface.get()), &cairo_destroy};
  const auto layout = impl_->layout(text, width, lines);
  int drawn_height = 0;
  pango_layout_get_pixel_size(layout.get(), nullptr, &drawn_height);
  cairo_move_to(cairo.get(), 0, std::max(0, (height - drawn_height) / 2));
  pango_cairo_show_layout(cairo.get(), layout.get());
  cairo_surface_flush(surface.get());
  check(cairo_status(cairo.get()) == CAIRO_STATUS_SUCCESS, ErrorKind::out_of_memory, "a label cannot be drawn: {}",
        cairo_status_to_string(cairo_status(cairo.get())));
  for (int y = 0; y < height; ++y)
    for (int x = 0; x < width; ++x) box[size_t(y * width + x)] = uint8_t(255 - ink[size_t(y * stride + x)]);
  return box;
}

}  // namespace lora
