#pragma once
// Layers of a native model that hold several of diffusers': their adapters taken apart and put together. Where the
// numbers allow it nothing is computed: parts are views, and what was taken apart goes together to the same bits.
#include <map>
#include <string>
#include <vector>

#include "lora/tensor.h"
#include "names/native.h"

namespace lora {

// The tensors of one layer, by canonical suffix.
using Module = std::map<std::string, Tensor>;

// How many rows the layer's weight has, as far as its adapter tells; 0 where it does not.
int64_t rows_of(const Module& module);
int64_t columns_of(const Module& module);  // inputs times the kernel

// What of a fused layer's adapter is the share's. The down factor and all that is about inputs is every part's, what is
// about outputs is cut. Throws Error{unsupported} where the parts cannot be told apart (magnitudes of inputs, butterfly
// rotations), Error{bad_shape} where the rows are no multiple of the shares.
Module part_of(const Module& whole, Share share, const std::string& label);

// Every row of the lower half before those of the upper. Throws Error{unsupported} where a kind cannot say it.
Module with_halves_swapped(const Module& module, const std::string& label);

// Whether what is about inputs is the same in all of them, so that they are the parts of one adapter.
bool same_inputs(const std::vector<Module>& parts);

// The reverse of part_of, parts in the order of their shares; shares that are missing are zero. Of `same_inputs` the
// fused adapter is what they were cut from; otherwise (LoRA alone) factors stand in blocks: rank and alpha grow n-fold.
// Throws Error{unsupported} where one adapter cannot say what the parts do.
Module joined(const std::vector<std::pair<Share, Module>>& parts, bool same_inputs, const std::string& label);

}  // namespace lora
