#pragma once
// Flux' layers in Black Forest Labs' names, row by row: "#" is a block's number.
#include <span>
#include <string_view>

#include "names/native.h"

namespace lora {

struct FluxRow {
  std::string_view native, ours;
  RowSlice rows;
  Halves halves = Halves::as_they_are;
  bool read_only = false;  // some trainer's name for a part of a layer
};

std::span<const FluxRow> flux_rows();
inline constexpr int kFluxDoubleBlocks = 19, kFluxSingleBlocks = 38;  // of FLUX.1

}  // namespace lora
