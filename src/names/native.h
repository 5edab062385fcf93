#pragma once
// The names that models had before diffusers: SD 1.x to XL's (`input_blocks`), Stable Diffusion 3's (`joint_blocks`)
// and Flux' (`double_blocks`). Some of their layers hold several of diffusers', one after the other along the rows, or
// hold them in another order. Tables and rules, used in both directions; no model is needed.
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace lora {

// Rows [begin, end) of `of` equal shares of a native layer.
struct Share {
  int begin = 0, end = 1, of = 1;

  bool whole() const { return end - begin == of; }
  bool operator==(const Share&) const = default;
};

// Where diffusers has the scale before the shift and the native layer has them the other way round.
enum class Halves {
  as_they_are,
  swapped,
  swapped_if_two,  // the last block's alone, whose rows are two blocks of its columns, not six
};

// A layer of diffusers' and where in a native layer it is.
struct Layer {
  std::string path;
  Share share;
};
struct NativeLayer {
  std::vector<Layer> layers;  // one, or several in the order of their rows
  Halves halves = Halves::as_they_are;
};

bool is_native(std::string_view path);
bool is_flux_native(std::string_view path);  // the names that only Flux has
// nullopt for a path that is no native one. UNets have two layers a block, as all published ones do.
std::optional<NativeLayer> native_layer(std::string_view path);

// The reverse: which native layer holds a layer of diffusers', and which rows of it. `family` as architecture_of names
// it. nullopt where that model's native code has no such layer.
struct NativePlace {
  std::string path;
  Share share;
  Halves halves = Halves::as_they_are;
};
std::optional<NativePlace> native_place(const std::string& path, const std::string& family);

}  // namespace lora
