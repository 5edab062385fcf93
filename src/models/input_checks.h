#pragma once
// Checks of the inputs of a model. All throw Error{usage}.
#include <string>
#include <string_view>

#include "nn/embeddings.h"

namespace lora {

// Throws unless `fits`: "<model>: <name> must be <wanted>; got <dtype and shape>".
void check_input(bool fits, std::string_view model, std::string_view name, const std::string& wanted,
                 const Tensor& got);

// Throws unless `images` is [N, channels, H, W] of that dtype.
void check_images(std::string_view model, std::string_view name, const Tensor& images, int64_t channels, Dtype dtype);

// Throws unless every value of `ids` is in 0 … count - 1. `ids` is an int64 tensor with at least one element.
// `vocabulary` names what has `count` entries, and `hint` is a likely cause.
void check_id_range(std::string_view label, const Tensor& ids, std::string_view vocabulary, int64_t count,
                    std::string_view hint);

// Throws unless `ids` can be the input of a text encoder: int64 [images, tokens], all in the vocabulary. Returns the
// ids on the model's device.
Tensor checked_input_ids(const Tensor& ids, const TokenEmbedding& vocabulary);

}  // namespace lora
