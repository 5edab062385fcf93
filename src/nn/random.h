#pragma once
// Random numbers as torch draws them: the same seed gives the same noise as the reference.
#include <ATen/core/Generator.h>

#include <cstdint>
#include <vector>

#include "lora/tensor.h"

namespace lora {

// A CPU generator, as torch.Generator().manual_seed(seed).
at::Generator make_generator(uint64_t seed);

// Standard normal noise of `shape`. Without generators, torch's default generator draws it. One generator draws the
// whole batch. shape[0] generators draw one image each, so that an image does not depend on the others. CPU generators
// work for every device: they draw on the CPU, and the noise is moved. Throws Error{usage} for another number of
// generators, and for a generator of another device.
Tensor randn_tensor(at::IntArrayRef shape, const std::vector<at::Generator>& generators, Dtype dtype, Device device);
// The same for noise that is uniform in [0, 1).
Tensor rand_tensor(at::IntArrayRef shape, const std::vector<at::Generator>& generators, Dtype dtype, Device device);

}  // namespace lora
