#include "lora/memory.h"

#include <c10/core/ScalarType.h>

#include <nlohmann/json.hpp>

#include "io/mapped_file.h"
#include "io/public_call.h"
#include "lora/pipelines.h"
#include "models/parts_of.h"
#include "nn/site.h"

namespace lora {

namespace {

using nlohmann::json;

double number(const json& config, const char* field, double fallback) {
  auto value = config.value(field, json());
  return value.is_number() ? value.get<double>() : fallback;
}

double first_channels(const json& config) {
  auto value = config.value("block_out_channels", json());
  return value.is_array() && !value.empty() ? value[0].get<double>() : 0;
}

// The numbers that a denoiser has at once for each latent or token of its input.
double numbers_of_position(const json& config, Dtype dtype) {
  const bool is_half = c10::elementSize(dtype) < 4;
  if (config.contains("block_out_channels") && !config.contains("hidden_size"))
    return (is_half ? 41 : 26) * first_channels(config);  // measured on the UNet of SD 1.5
  const auto heads = number(config, "num_attention_heads", 0), head = number(config, "attention_head_dim", 0);
  const bool halved = config.value("downsample", json(false)) == json(true);
  const auto patch = halved ? 2 : number(config, "patch_size", 1);
  return 16 * number(config, "hidden_size", heads * head) / (patch * patch);
}

struct WeightsOf {
  double all = 0, kept = 0;  // in bytes; those that stay while the model does not work
};

WeightsOf weights_of(const Model& model) {
  WeightsOf sum;
  const auto& parts = parts_of(model);
  const bool may_leave = parts.holds.may_leave;
  for (const auto& [name, t] : parts.tensors) sum.all += double(t.nbytes());
  if (may_leave) return sum;
  for (const auto& [name, t] : parts.tensors)
    if (!pristine(t).defined()) sum.kept += double(t.nbytes());
  return sum;
}

// Returns f(the pipeline's AutoencoderKL or VQModel).
template <class F>
double on_autoencoder(const DiffusionPipeline& pipe, const F& f) {
  const auto& model = *pipe.autoencoder().model;
  return model.class_name() == "VQModel" ? f(static_cast<const VQModel&>(model))
                                         : f(static_cast<const AutoencoderKL&>(model));
}

struct Size {
  double height, width;
};

Size size_of(const CallOptions& call, double own) {
  const Image* image = call.image.empty() || call.padding_mask_crop ? nullptr : &call.image.front();
  auto side = [&](int given, int Image::*of) { return given ? double(given) : image ? double(image->*of) : own; };
  return {side(call.height, &Image::height), side(call.width, &Image::width)};
}

}  // namespace

MemoryNeeded DiffusionPipeline::memory_needed(const CallOptions& call, double free) const {
  return public_call([&] {
    MemoryNeeded needed;
    WeightsOf encoders;
    auto add = [&](const Model& model) {
      const auto weights = weights_of(model);
      needed.weights += weights.all;
      needed.kept += weights.kept;
      return weights;
    };
    const auto all = models();
    const auto& model = *all.front().model;
    const auto denoiser = add(model), decoder = add(*autoencoder().model);
    for (size_t i = 1; i < all.size(); ++i) {
      const auto weights = add(*all[i].model);
      encoders = {encoders.all + weights.all, encoders.kept + weights.kept};
    }
    auto with = [&](const WeightsOf& at_work) { return needed.kept - at_work.kept + at_work.all; };

    const auto factor = on_autoencoder(*this, [](const auto& a) { return double(a.scale_factor()); });
    const auto config = json::parse(model.config());
    const auto [height, width] = size_of(call, number(config, "sample_size", 64) * factor);
    const double passes = call.guidance_scale.value_or(2) > 1 ? 2 : 1;
    const double positions = height * width / (factor * factor) * passes * call.num_images_per_prompt;
    needed.encoding = with(encoders);
    needed.denoising =
        with(denoiser) + positions * numbers_of_position(config, dtype()) * double(c10::elementSize(dtype()));
    needed.decoding = with(decoder) + on_autoencoder(*this, [&](const auto& autoencoder) {
                        return autoencoder.decoding_memory(call.num_images_per_prompt, int64_t(height), int64_t(width),
                                                           free - (with(decoder) - needed.kept));
                      });
    return needed;
  });
}

}  // namespace lora
