#include <ATen/ATen.h>

#include "core/edge.h"
#include "lora/autoencoders.h"
#include "models/autoencoder_blocks.h"
#include "models/autoencoder_tiles.h"
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
  Tiles tiles;

  int64_t scale_factor() const { return int64_t{1} << (blocks.channels.size() - 1); }

  static AutoencoderKLConfig parse(const std::string& text, const std::string& label);
};

// The tiles of the config's sample_size, with overlaps of a quarter. It is rounded down to whole quarters.
Tiles default_tiles(ConfigReader& config, int64_t factor) {
  constexpr int64_t kParts = 4, kSampleSize = 32;  // the latter is diffusers' default
  const auto& given = config.value("sample_size");
  const auto& side = given.is_array() && !given.empty() ? given[0] : given;
  const auto sample = side.is_number_integer() ? side.get<int64_t>() : kSampleSize;
  const auto latent = std::max<int64_t>(1, sample / factor / kParts) * kParts;
  return Tiles::of(latent * factor, factor, 1.0 / kParts);
}

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
  c.tiles = default_tiles(config, c.scale_factor());
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
  std::shared_ptr<SharedPieceSettings> settings = std::make_shared<SharedPieceSettings>(c.tiles);

  Pieces pieces(const PieceSettings& now, int64_t images, int64_t height, int64_t width, Dtype dtype,
                double free) const {
    const auto bytes = decoder_bytes(c.blocks.channels, double(height) * double(width), dtype);
    return Pieces::of(now, images, bytes, std::max(height, width) > now.tiles.sample, free);
  }
  Tensor moments(const Tensor& pixels) const {
    auto moments = encoder(pixels);
    return quant_conv ? (*quant_conv)(moments) : moments;
  }
  Tensor pixels(const Tensor& latents) const {
    return decoder(post_quant_conv ? (*post_quant_conv)(latents) : latents);
  }

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
    const auto settings = impl().settings->now();
    const auto pieces =
        impl().pieces(settings, pixels.size(0), pixels.size(2), pixels.size(3), dtype(), free_on(device()));
    const auto& [sample, latent, overlap] = settings.tiles;
    const auto moments = in_slices(pixels, pieces.by_image, [&](const Tensor& x) {
      auto work = [&](const Tensor& tile) { return impl().moments(tile); };
      return pieces.by_tile ? in_tiles(x, sample, latent, overlap, work) : work(x);
    });
    auto halves = moments.chunk(2, 1);
    return DiagonalGaussian{.mean = halves[0], .logvar = at::clamp(halves[1], -30.0, 20.0)};
  });
}

Tensor AutoencoderKL::decode(const Tensor& latents) const {
  return edge([&] {
    const RunScope run(parts_of(*this));
    check_images("AutoencoderKL", "latents", latents, impl().c.latent_channels, dtype());
    const auto settings = impl().settings->now();
    const auto factor = scale_factor();
    const auto pieces = impl().pieces(settings, latents.size(0), factor * latents.size(2), factor * latents.size(3),
                                      dtype(), free_on(device()));
    const auto& [sample, latent, overlap] = settings.tiles;
    return in_slices(latents, pieces.by_image, [&](const Tensor& x) {
      auto work = [&](const Tensor& tile) { return impl().pixels(tile); };
      return pieces.by_tile ? in_tiles(x, latent, sample, overlap, work) : work(x);
    });
  });
}

Tensor DiagonalGaussian::sample(const std::vector<at::Generator>& generators) const {
  return mean + at::exp(0.5 * logvar) * randn_tensor(mean.sizes(), generators, mean.scalar_type(), mean.device());
}

// ---- Memory ---------------------------------------------------------------------------------------------------------

void AutoencoderKL::enable_slicing() {
  edge([&] { impl().settings->change([](PieceSettings& s) { s.slicing = true; }); });
}

void AutoencoderKL::disable_slicing() {
  edge([&] { impl().settings->change([](PieceSettings& s) { s.slicing = false; }); });
}

void AutoencoderKL::enable_tiling(const TilingOptions& o) {
  edge([&] {
    const auto side = o.tile_sample_min_size.value_or(impl().c.tiles.sample);
    const auto tiles = Tiles::of(side, scale_factor(), o.tile_overlap_factor);
    impl().settings->change([&](PieceSettings& s) { s.tiling = true, s.tiles = tiles; });
  });
}

void AutoencoderKL::disable_tiling() {
  edge([&] { impl().settings->change([](PieceSettings& s) { s.tiling = false; }); });
}

bool AutoencoderKL::uses_tiles(int64_t height, int64_t width, double free) const {
  return edge([&] { return impl().pieces(impl().settings->now(), 1, height, width, dtype(), free).by_tile; });
}

double AutoencoderKL::decoding_memory(int64_t images, int64_t height, int64_t width, double free) const {
  return edge([&] {
    const auto settings = impl().settings->now();
    const auto pieces = impl().pieces(settings, images, height, width, dtype(), free);
    const auto side = [&](int64_t whole) {
      return double(pieces.by_tile ? std::min(whole, settings.tiles.sample) : whole);
    };
    const double at_once = pieces.by_image ? 1 : double(images);
    const double pixels = double(images * impl().c.out_channels) * double(height) * double(width);
    return at_once * decoder_bytes(impl().c.blocks.channels, side(height) * side(width), dtype()) +
           pixels * double(c10::elementSize(dtype()));
  });
}

// ---- Config ---------------------------------------------------------------------------------------------------------

double AutoencoderKL::scaling_factor() const { return impl().c.scaling_factor; }
double AutoencoderKL::shift_factor() const { return impl().c.shift_factor; }
int64_t AutoencoderKL::scale_factor() const { return impl().c.scale_factor(); }
int64_t AutoencoderKL::latent_channels() const { return impl().c.latent_channels; }
bool AutoencoderKL::force_upcast() const { return impl().c.force_upcast; }

}  // namespace lora
