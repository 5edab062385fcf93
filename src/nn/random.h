#pragma once
// Random numbers as torch draws them: a seed gives the reference's noise, number for number.
#include <ATen/core/Generator.h>

#include <cstdint>
#include <vector>

#include "lora/tensor.h"

namespace lora {

// A CPU generator, as torch.Generator().manual_seed(seed).
at::Generator make_generator(uint64_t seed);

// Standard normal noise of `shape`. No generator: torch's default one; one: for the whole batch; as many as shape[0]:
// one an image, so that an image does not depend on its neighbours. CPU generators serve every device: the numbers are
// drawn on the CPU and moved. Throws Error{usage} for another count, or a generator of another device.
Tensor randn_tensor(at::IntArrayRef shape, const std::vector<at::Generator>& generators, Dtype dtype, Device device);

}  // namespace lora
