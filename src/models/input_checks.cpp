#include "models/input_checks.h"

#include <ATen/ATen.h>

#include "core/check.h"

namespace lora {

namespace {

std::string described(const Tensor& t) {
  return t.defined() ? c10::str(t.scalar_type(), " ", t.sizes()) : "an undefined tensor";
}

}  // namespace

void check_input(bool fits, std::string_view model, std::string_view name, const std::string& wanted,
                 const Tensor& got) {
  check(fits, ErrorKind::usage, "{}: {} must be {}; got {}", model, name, wanted, described(got));
}

void check_images(std::string_view model, std::string_view name, const Tensor& images, int64_t channels, Dtype dtype) {
  bool fits = images.defined() && images.dim() == 4 && images.size(1) == channels && images.scalar_type() == dtype;
  check_input(fits, model, name, fmt::format("{} [N, {}, H, W]", to_string(dtype), channels), images);
}

void check_id_range(std::string_view label, const Tensor& ids, std::string_view vocabulary, int64_t count,
                    std::string_view hint) {
  auto [low, high] = at::aminmax(ids);
  check(low.item<int64_t>() >= 0 && high.item<int64_t>() < count, ErrorKind::usage,
        "{} has values {} to {}, but {} has 0 to {}; {}", label, low.item<int64_t>(), high.item<int64_t>(), vocabulary,
        count - 1, hint);
}

Tensor checked_input_ids(const Tensor& ids, const TokenEmbedding& vocabulary) {
  check(ids.defined() && ids.dim() == 2 && ids.scalar_type() == at::kLong && ids.numel() > 0, ErrorKind::usage,
        "input_ids must be int64 [images, tokens]; got {}", described(ids));
  check_id_range("input_ids", ids, "the text encoder's vocabulary", vocabulary.size(),
                 "the ids may be from the tokenizer of another model");
  return ids.to(vocabulary.site->weight.device());
}

}  // namespace lora
