#pragma once
// GLoRA (Chavan et al. 2023, arXiv:2306.07967, as in LyCORIS): ΔW = scale · (b1 b2 + W a1 a2), and the transposed form
// of older files, scale · (b2 b1 + W a2 a1).
#include "kinds/product.h"

namespace lora {

// tensors: a1.weight [in, r], a2.weight [r, in], b1.weight [out, r], b2.weight [r, in·kh·kw], or all transposed. base:
// the site's base weight, looked at once where factors of low rank will do.
std::shared_ptr<const Delta> make_glora(const Site& site, const StateDict& tensors, Strength strength,
                                        const Tensor& base, const std::string& label);
// Which of the two forms: they differ where in and out do; else by where the rank, the smaller number, stands.
bool is_old_glora(const Tensor& a1, const Tensor& a2, const Tensor& b1, const Tensor& b2);
int64_t glora_rank(const StateDict& tensors);

}  // namespace lora
