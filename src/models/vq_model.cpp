#include <ATen/ATen.h>

#include "core/check.h"
#include "core/edge.h"
#include "lora/autoencoders.h"
#include "models/autoencoder_blocks.h"
#include "models/factory.h"
#include "models/input_checks.h"
#include "nn/run.h"

namespace lora {

namespace {

struct VQConfig {
  int64_t in_channels, out_channels, latent_channels;
  int64_t num_vq_embeddings, vq_embed_dim;
  AutoencoderSettings blocks;
  bool force_upcast;

  static VQConfig parse(const std::string& text, const std::string& label);
};

VQConfig VQConfig::parse(const std::string& text, const std::string& label) {
  ConfigReader config(text, label);
  VQConfig c;
  c.in_channels = config.integer("in_channels", 3);
  c.out_channels = config.integer("out_channels", 3);
  c.latent_channels = config.integer("latent_channels", 3);
  c.num_vq_embeddings = config.integer("num_vq_embeddings", 256);
  c.vq_embed_dim = config.maybe_integer("vq_embed_dim").value_or(c.latent_channels);
  c.blocks = AutoencoderSettings::parse(config);
  c.force_upcast = config.flag("force_upcast", false);
  config.only("norm_type", {"group"});
  // The field says whether diffusers' decode() takes latents or tokens. decode() here always takes tokens.
  config.ignore({"lookup_from_codebook"});
  config.ignore({"sample_size", "scaling_factor"});
  config.finish();
  return c;
}

}  // namespace

template <>
struct PretrainedModel<VQModel>::Impl {
  Scope s;
  VQConfig c;

  Encoder encoder{s / "encoder", c.in_channels, c.latent_channels, c.blocks};
  Conv2d quant_conv{s / "quant_conv", c.latent_channels, c.vq_embed_dim, 1};
  Embedding codebook{s / "quantize" / "embedding", c.num_vq_embeddings, c.vq_embed_dim};
  Conv2d post_quant_conv{s / "post_quant_conv", c.vq_embed_dim, c.latent_channels, 1};
  Decoder decoder{s / "decoder", c.latent_channels, c.out_channels, c.blocks};

  static constexpr WeightFiles kFiles = kDiffusersFiles;
  static std::string class_name() { return "VQModel"; }

  Tensor nearest(const Tensor& latents) const;
  void check_tokens(const Tensor& tokens) const;
};

template class PretrainedModel<VQModel>;

// ---- Calls ----------------------------------------------------------------------------------------------------------

// The entry e that minimises |z - e|² - |z|². The term |z|² is the same for all entries. The distances are float32,
// because the distances of the nearest two entries may be almost equal.
Tensor VQModel::Impl::nearest(const Tensor& latents) const {
  auto z = latents.permute({0, 2, 3, 1}).to(at::kFloat);
  auto entries = codebook.site->weight.to(at::kFloat);
  auto distances = at::addmm(entries.square().sum(1), z.flatten(0, 2), entries.t(), 1, -2);
  return distances.argmin(1).view(z.sizes().slice(0, 3));
}

void VQModel::Impl::check_tokens(const Tensor& tokens) const {
  check_input(tokens.defined() && tokens.dim() == 3 && tokens.scalar_type() == at::kLong && tokens.numel() > 0,
              "VQModel", "tokens", "int64 [N, h, w]", tokens);
  check_id_range("VQModel: tokens", tokens, "the codebook", c.num_vq_embeddings, "some of them may still be masked");
}

Tensor VQModel::encode(const Tensor& pixels) const {
  return edge([&] {
    const RunScope run(parts_of(*this));
    check_images("VQModel", "pixels", pixels, impl().c.in_channels, dtype());
    return impl().nearest(impl().quant_conv(impl().encoder(pixels)));
  });
}

Tensor VQModel::decode(const Tensor& tokens) const {
  return edge([&] {
    const RunScope run(parts_of(*this));
    impl().check_tokens(tokens);
    auto latents = impl().codebook(tokens.to(device())).permute({0, 3, 1, 2});
    return impl().decoder(impl().post_quant_conv(latents));
  });
}

// ---- Config ---------------------------------------------------------------------------------------------------------

int64_t VQModel::scale_factor() const { return int64_t{1} << (impl().c.blocks.channels.size() - 1); }
int64_t VQModel::num_vq_embeddings() const { return impl().c.num_vq_embeddings; }
bool VQModel::force_upcast() const { return impl().c.force_upcast; }

}  // namespace lora
