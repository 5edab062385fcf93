#include "memory.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "check.h"

namespace lora::cli {

namespace {

using nlohmann::json;

struct Size {
  double width, height;
};

double number(const json& config, const char* field, double fallback) {
  auto value = config.value(field, json());
  return value.is_number() ? value.get<double>() : fallback;
}

std::vector<double> channels(const json& config) {
  auto value = config.value("block_out_channels", json());
  return value.is_array() && !value.empty() ? value.get<std::vector<double>>() : std::vector<double>{0};
}

// Pixels in a row for each latent or token.
double scale_factor(const json& autoencoder) { return std::pow(2.0, double(channels(autoencoder).size() - 1)); }

Size size_of(const CallOptions& call, double own) {
  const Image* image = call.image.empty() || call.padding_mask_crop ? nullptr : &call.image.front();
  auto side = [&](int given, int Image::*of) { return given ? double(given) : image ? double(image->*of) : own; };
  return {side(call.width, &Image::width), side(call.height, &Image::height)};
}

double bytes_of_number(const Model& model) { return double(c10::elementSize(model.dtype())); }

// The widths of one position of the denoiser's largest layers together, and how many positions a latent is.
double denoiser_width(const json& config) {
  if (config.contains("block_out_channels") && !config.contains("hidden_size")) return 32 * channels(config).front();
  const auto heads = number(config, "num_attention_heads", 0), head = number(config, "attention_head_dim", 0);
  const bool halved = config.value("downsample", json(false)) == json(true);
  const auto patch = halved ? 2 : number(config, "patch_size", 1);
  return 16 * number(config, "hidden_size", heads * head) / (patch * patch);
}

// The number in a file that has nothing else, or infinity.
double limit_in(const std::string& file) {
  double value = 0;
  return std::ifstream(file) >> value ? value : std::numeric_limits<double>::infinity();
}

// The value of a line "NAME value …" of a file, or 0.
double field_in(const std::string& file, const std::string& name) {
  std::ifstream in(file);
  for (std::string word, rest; in >> word; std::getline(in, rest)) {
    double value = 0;
    if (word == name && in >> value) return value;
  }
  return 0;
}

double free_memory() {
  constexpr double kKilo = 1024;
  const std::string info = "/proc/meminfo", group = "/sys/fs/cgroup/";
  const double machine = field_in(info, "MemAvailable:") * kKilo;
  const double swap = field_in(info, "SwapFree:") * kKilo;
  const double limit = limit_in(group + "memory.max");
  // The group's cached files make room when they must.
  const double used =
      std::isinf(limit) ? 0 : limit_in(group + "memory.current") - field_in(group + "memory.stat", "file");
  if (machine == 0) return std::numeric_limits<double>::infinity();  // unknown
  return std::min(machine + swap, limit - used);
}

std::string size_text(double bytes) {
  return bytes < 1e10 ? fmt::format("{:.1f} GB", bytes / 1e9) : fmt::format("{:.0f} GB", bytes / 1e9);
}

}  // namespace

double memory_needed(const DiffusionPipeline& pipe, const CallOptions& call) {
  const auto& denoiser = *pipe.models().front().model;
  const auto& autoencoder = *pipe.autoencoder().model;
  const auto config = json::parse(denoiser.config()), decoder = json::parse(autoencoder.config());
  const auto factor = scale_factor(decoder);
  const auto [width, height] = size_of(call, number(config, "sample_size", 64) * factor);
  const double pixels = width * height * double(call.num_images_per_prompt);

  const auto maps = channels(decoder);
  const double last_block = 2 * maps.front() + 2 * maps[std::min<size_t>(1, maps.size() - 1)];
  const double decoding = pixels * last_block * bytes_of_number(autoencoder);
  const double passes = call.guidance_scale.value_or(2) > 1 ? 2 : 1;
  const double denoising = pixels / (factor * factor) * passes * denoiser_width(config) * bytes_of_number(denoiser);
  return std::max(decoding, denoising);
}

void check_memory(const DiffusionPipeline& pipe, const CallOptions& call) {
  if (!pipe.device().is_cpu()) return;
  const double needed = memory_needed(pipe, call), there = free_memory();
  check(needed <= there, ErrorKind::usage,
        "the call needs about {} of memory, but {} are free. Choose a smaller --size or --count, or try it with --yes.",
        size_text(needed), size_text(there));
}

}  // namespace lora::cli
