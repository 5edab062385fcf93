#include "nn/random.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include "core/check.h"

namespace lora {

at::Generator make_generator(uint64_t seed) { return at::make_generator<at::CPUGeneratorImpl>(seed); }

static void check_generators(at::IntArrayRef shape, const std::vector<at::Generator>& generators, Device device) {
  auto batch = shape.empty() ? 1 : shape[0];
  check(generators.size() <= 1 || static_cast<int64_t>(generators.size()) == batch, ErrorKind::usage,
        "generators: there are {} for a batch of {}; give none, one or {}", generators.size(), batch, batch);
  for (const auto& generator : generators) {
    check(generator.defined(), ErrorKind::usage,
          "generators: one of them is undefined; make each with make_generator(seed)");
    check(generator.device().is_cpu() || generator.device().type() == device.type(), ErrorKind::usage,
          "generators: one of them is for {}, but the noise is for {}; use a generator for the CPU or for {}",
          generator.device().str(), device.str(), device.str());
  }
}

static Tensor draw(at::IntArrayRef shape, const at::Generator& generator, const at::TensorOptions& options) {
  auto drawn_on = generator.device().is_cpu() ? options.device(at::kCPU) : options;
  return at::randn(shape, generator, drawn_on).to(options.device());
}

Tensor randn_tensor(at::IntArrayRef shape, const std::vector<at::Generator>& generators, Dtype dtype, Device device) {
  check_generators(shape, generators, device);
  auto options = at::TensorOptions(dtype).device(device);
  if (generators.empty()) return at::randn(shape, options);
  if (generators.size() == 1) return draw(shape, generators.front(), options);

  auto image_shape = shape.vec();
  image_shape[0] = 1;
  std::vector<Tensor> images;
  for (const auto& generator : generators) images.push_back(draw(image_shape, generator, options));
  return at::cat(images);
}

}  // namespace lora
