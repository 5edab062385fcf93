#pragma once
// The names that models had before diffusers: SD 1.x to XL's (`input_blocks`), Stable Diffusion 3's (`joint_blocks`)
// and Flux' (`double_blocks`). Some of their layers hold several of diffusers', one after the other along the rows, or
// hold them in another order. Tables and rules, used in both directions; no model is needed.
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "names/base_model.h"
#include "names/row_slice.h"

namespace lora {

// Where diffusers has the scale before the shift and the native layer has them the other way round.
enum class Halves {
  as_they_are,
  swapped,
  swapped_if_two,  // the last block's alone, whose rows are two blocks of its columns, not six
};

// A layer of diffusers' and which rows of a native layer it is.
struct PathRows {
  std::string path;
  RowSlice rows;
};
struct NativeLayer {
  std::vector<PathRows> layers;  // one, or several in the order of their rows
  Halves halves = Halves::as_they_are;
};

bool is_native(std::string_view path);
bool is_flux_native(std::string_view path);  // the names that Flux and its relatives have
// nullopt for a path that is no native one of that layout. UNets have two layers a block, as all published ones do.
std::optional<NativeLayer> native_layer(std::string_view path, NativeNames layout);

// The reverse: which native layer holds a layer of diffusers', and which rows of it. nullopt where that base model's
// native code does not have such a layer.
struct NativePlace {
  std::string path;
  RowSlice rows;
  Halves halves = Halves::as_they_are;
};
std::optional<NativePlace> native_place(const std::string& path, const BaseModelRow& base_model);

}  // namespace lora
