#include "models/input_ids.h"

#include <ATen/ATen.h>

#include "core/check.h"

namespace lora {

Tensor checked_input_ids(const Tensor& ids, const TokenEmbedding& vocabulary) {
  check(ids.defined() && ids.dim() == 2 && ids.scalar_type() == at::kLong && ids.numel() > 0, ErrorKind::usage,
        "input_ids must be int64 [images, tokens]; got {}",
        ids.defined() ? c10::str(ids.scalar_type(), " ", ids.sizes()) : "nothing");
  auto [low, high] = at::aminmax(ids);
  auto size = vocabulary.size();
  check(low.item<int64_t>() >= 0 && high.item<int64_t>() < size, ErrorKind::usage,
        "input_ids has values {} to {}, the text encoder's vocabulary 0 to {}; is it another model's tokenizer?",
        low.item<int64_t>(), high.item<int64_t>(), size - 1);
  return ids.to(vocabulary.site->weight.device());
}

}  // namespace lora
