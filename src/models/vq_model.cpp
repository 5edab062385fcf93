#include <ATen/ATen.h>

#include "core/check.h"
#include "core/edge.h"
#include "lora/autoencoders.h"
#include "models/autoencoder_blocks.h"
#include "models/autoencoder_tiles.h"
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
  std::shared_ptr<SharedPieceSettings> settings = std::make_shared<SharedPieceSettings>(Tiles{});

  static constexpr WeightFiles kFiles = kDiffusersFiles;
  static std::string class_name() { return "VQModel"; }

  bool by_image(int64_t images, int64_t height, int64_t width, Dtype dtype, double free) const {
    const auto bytes = decoder_bytes(c.blocks.channels, double(height) * double(width), dtype);
    return Pieces::of(settings->now(), images, bytes, /*larger_than_tile=*/false, free).by_image;
  }
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
    const bool by_image = impl().by_image(pixels.size(0), pixels.size(2), pixels.size(3), dtype(), free_on(device()));
    return in_slices(pixels, by_image,
                     [&](const Tensor& x) { return impl().nearest(impl().quant_conv(impl().encoder(x))); });
  });
}

Tensor VQModel::decode(const Tensor& tokens) const {
  return edge([&] {
    const RunScope run(parts_of(*this));
    impl().check_tokens(tokens);
    const auto factor = scale_factor();
    const bool by_image =
        impl().by_image(tokens.size(0), factor * tokens.size(1), factor * tokens.size(2), dtype(), free_on(device()));
    return in_slices(tokens.to(device()), by_image, [&](const Tensor& x) {
      return impl().decoder(impl().post_quant_conv(impl().codebook(x).permute({0, 3, 1, 2})));
    });
  });
}

// ---- Memory ---------------------------------------------------------------------------------------------------------

void VQModel::enable_slicing() {
  edge([&] { impl().settings->change([](PieceSettings& s) { s.slicing = true; }); });
}

void VQModel::disable_slicing() {
  edge([&] { impl().settings->change([](PieceSettings& s) { s.slicing = false; }); });
}

double VQModel::decoding_memory(int64_t images, int64_t height, int64_t width, double free) const {
  return edge([&] {
    const double at_once = impl().by_image(images, height, width, dtype(), free) ? 1 : double(images);
    const double pixels = double(height) * double(width);
    return at_once * decoder_bytes(impl().c.blocks.channels, pixels, dtype()) +
           double(images * impl().c.out_channels) * pixels * double(c10::elementSize(dtype()));
  });
}

// ---- Config ---------------------------------------------------------------------------------------------------------

int64_t VQModel::scale_factor() const { return int64_t{1} << (impl().c.blocks.channels.size() - 1); }
int64_t VQModel::num_vq_embeddings() const { return impl().c.num_vq_embeddings; }
bool VQModel::force_upcast() const { return impl().c.force_upcast; }

}  // namespace lora
