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

// at::randn or at::rand.
using Draw = Tensor (*)(at::IntArrayRef, std::optional<at::Generator>, at::TensorOptions);

static Tensor draw(Draw f, at::IntArrayRef shape, const at::Generator& generator, const at::TensorOptions& options) {
  auto drawn_on = generator.device().is_cpu() ? options.device(at::kCPU) : options;
  return f(shape, generator, drawn_on).to(options.device());
}

static Tensor draw(Draw f, at::IntArrayRef shape, const std::vector<at::Generator>& generators,
                   const at::TensorOptions& options) {
  check_generators(shape, generators, options.device());
  if (generators.empty()) return f(shape, std::nullopt, options);
  if (generators.size() == 1) return draw(f, shape, generators.front(), options);

  auto image_shape = shape.vec();
  image_shape[0] = 1;
  std::vector<Tensor> images;
  for (const auto& generator : generators) images.push_back(draw(f, image_shape, generator, options));
  return at::cat(images);
}

Tensor randn_tensor(at::IntArrayRef shape, const std::vector<at::Generator>& generators, Dtype dtype, Device device) {
  return draw(at::randn, shape, generators, at::TensorOptions(dtype).device(device));
}

Tensor rand_tensor(at::IntArrayRef shape, const std::vector<at::Generator>& generators, Dtype dtype, Device device) {
  return draw(at::rand, shape, generators, at::TensorOptions(dtype).device(device));
}

}  // namespace lora
