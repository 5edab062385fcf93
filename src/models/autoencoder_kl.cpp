#include <ATen/ATen.h>

#include "core/edge.h"
#include "lora/autoencoders.h"
#include "models/autoencoder_blocks.h"
#include "models/factory.h"
#include "models/input_checks.h"
#include "nn/random.h"
#include "nn/run.h"

namespace lora {

namespace {

struct AutoencoderKLConfig {
  int64_t in_channels, out_channels, latent_channels;
  AutoencoderSettings blocks;
  double scaling_factor, shift_factor;
  bool force_upcast, use_quant_conv, use_post_quant_conv;

  static AutoencoderKLConfig parse(const std::string& text, const std::string& label);
};

AutoencoderKLConfig AutoencoderKLConfig::parse(const std::string& text, const std::string& label) {
  ConfigReader config(text, label);
  AutoencoderKLConfig c;
  c.in_channels = config.integer("in_channels", 3);
  c.out_channels = config.integer("out_channels", 3);
  c.latent_channels = config.integer("latent_channels", 4);
  c.blocks = AutoencoderSettings::parse(config);
  c.scaling_factor = config.number("scaling_factor", 0.18215);
  c.shift_factor = config.maybe_number("shift_factor").value_or(0);
  c.force_upcast = config.flag("force_upcast", true);
  c.use_quant_conv = config.flag("use_quant_conv", true);
  c.use_post_quant_conv = config.flag("use_post_quant_conv", true);
  config.only("latents_mean", {nullptr});
  config.only("latents_std", {nullptr});
  config.ignore({"sample_size"});  // only for a decoder that works in tiles
  config.finish();
  return c;
}

}  // namespace

template <>
struct PretrainedModel<AutoencoderKL>::Impl {
  Scope s;
  AutoencoderKLConfig c;

  Encoder encoder{s / "encoder", c.in_channels, 2 * c.latent_channels, c.blocks};
  Decoder decoder{s / "decoder", c.latent_channels, c.out_channels, c.blocks};
  std::optional<Conv2d> quant_conv =
      when<Conv2d>(c.use_quant_conv, s / "quant_conv", 2 * c.latent_channels, 2 * c.latent_channels, 1);
  std::optional<Conv2d> post_quant_conv =
      when<Conv2d>(c.use_post_quant_conv, s / "post_quant_conv", c.latent_channels, c.latent_channels, 1);

  static constexpr WeightFiles kFiles = kDiffusersFiles;
  static std::string class_name() { return "AutoencoderKL"; }
  // Files from before 2023 have other names for the layers of the attention.
  static std::vector<std::string> aliases(const std::string& name) {
    static constexpr std::pair<std::string_view, std::string_view> kRows[] = {
        {".to_q.", ".query."}, {".to_k.", ".key."}, {".to_v.", ".value."}, {".to_out.0.", ".proj_attn."}};
    for (const auto& [now, then] : kRows)
      if (auto at = name.find(now); at != std::string::npos) return {std::string(name).replace(at, now.size(), then)};
    return {};
  }
};

template class PretrainedModel<AutoencoderKL>;

// ---- Calls ----------------------------------------------------------------------------------------------------------

DiagonalGaussian AutoencoderKL::encode(const Tensor& pixels) const {
  return edge([&] {
    const RunScope run(parts_of(*this));
    check_images("AutoencoderKL", "pixels", pixels, impl().c.in_channels, dtype());
    auto moments = impl().encoder(pixels);
    if (impl().quant_conv) moments = (*impl().quant_conv)(moments);
    auto halves = moments.chunk(2, 1);
    return DiagonalGaussian{.mean = halves[0], .logvar = at::clamp(halves[1], -30.0, 20.0)};
  });
}

Tensor AutoencoderKL::decode(const Tensor& latents) const {
  return edge([&] {
    const RunScope run(parts_of(*this));
    check_images("AutoencoderKL", "latents", latents, impl().c.latent_channels, dtype());
    return impl().decoder(impl().post_quant_conv ? (*impl().post_quant_conv)(latents) : latents);
  });
}

Tensor DiagonalGaussian::sample(const std::vector<at::Generator>& generators) const {
  return mean + at::exp(0.5 * logvar) * randn_tensor(mean.sizes(), generators, mean.scalar_type(), mean.device());
}

// ---- Config ---------------------------------------------------------------------------------------------------------

double AutoencoderKL::scaling_factor() const { return impl().c.scaling_factor; }
double AutoencoderKL::shift_factor() const { return impl().c.shift_factor; }
int64_t AutoencoderKL::scale_factor() const { return int64_t{1} << (impl().c.blocks.channels.size() - 1); }
int64_t AutoencoderKL::latent_channels() const { return impl().c.latent_channels; }
bool AutoencoderKL::force_upcast() const { return impl().c.force_upcast; }

}  // namespace lora
