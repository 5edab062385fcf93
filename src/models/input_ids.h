#pragma once
#include "nn/embeddings.h"

namespace lora {

// The ids on the model's device, once they are what a text encoder can take: int64 [images, tokens], each of the
// vocabulary. Throws Error{usage}.
Tensor checked_input_ids(const Tensor& ids, const TokenEmbedding& vocabulary);

}  // namespace lora
