#pragma once
// LoHa (Hyeon-Woo et al. 2021, arXiv:2108.06098, as in LyCORIS): ΔW = scale · (w1_a w1_b) ∘ (w2_a w2_b), for
// convolutions with a core (hada_t1, hada_t2) between the factors or without.
#include "kinds/product.h"

namespace lora {

// tensors: hada_w1_a [out, r], hada_w1_b [r, in·kh·kw] and w2's; with cores hada_t1 [r, r, kh, kw] the factors are
// [r, out] and [r, in]. Trailing dimensions (OneTrainer's) do not matter. Throws Error{bad_shape}, Error{bad_key} for
// one that is missing.
std::shared_ptr<const Delta> make_loha(const Site& site, const StateDict& tensors, Strength strength,
                                       const std::string& label);

}  // namespace lora
