#pragma once
// LoKr (Edalati et al. 2022, arXiv:2212.10650, as in LyCORIS and PEFT): ΔW = scale · W1 ⊗ W2, each whole or a product.
#include "kinds/product.h"

namespace lora {

// The rank that a file's alpha is divided by: of the factors of W2, or else of W1's; 0 where neither has any.
int64_t lokr_rank(const StateDict& tensors);

// tensors: lokr_w1 [a, c] or lokr_w1_a lokr_w1_b; lokr_w2 [b, d, …] or lokr_w2_a lokr_w2_b [r, d·kh·kw], or with a core
// lokr_t2 [r, r, kh, kw], lokr_w2_a [r, b], lokr_w2_b [r, d]. lokr_rows [2]: the site is those rows of the product.
std::shared_ptr<const Delta> make_lokr(const Site& site, const StateDict& tensors, Strength strength,
                                       const std::string& label);

}  // namespace lora
