#include "checkpoints/vae_file.h"

#include <array>
#include <cmath>

#include "checkpoints/published_configs.h"
#include "checkpoints/repository.h"
#include "checkpoints/single_file_rules.h"
#include "core/check.h"
#include "core/text.h"

namespace lora {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

// The default of diffusers' AutoencoderKL.
constexpr double kDefaultScalingFactor = 0.18215;

// The published families, by the scaling factors of their VAEs.
constexpr std::pair<double, const char*> kFamilies[] = {{0.18215, "Stable Diffusion 1.x and 2.x"},
                                                        {0.13025, "Stable Diffusion XL"},
                                                        {1.5305, "Stable Diffusion 3"},
                                                        {0.3611, "Flux"}};

std::string with_family(double scaling_factor) {
  for (auto [factor, name] : kFamilies)
    if (std::abs(factor - scaling_factor) < 1e-6) return fmt::format("{:g}, as of {}", scaling_factor, name);
  return fmt::format("{:g}", scaling_factor);
}

// The prefixes of a VAE in the layout of its publishers.
constexpr std::array<std::string_view, 6> kParts{"encoder.",         "decoder.", "quant_conv.",
                                                 "post_quant_conv.", "loss.",    "model_ema."};

// With the names that the VAE has inside a whole checkpoint.
StateDict as_in_a_checkpoint(const StateDict& tensors) {
  StateDict all;
  for (const auto& [name, t] : tensors)
    all.set(std::ranges::any_of(kParts, [&](auto part) { return name.starts_with(part); }) ? std::string(kVae) + name
                                                                                           : name,
            t);
  return all;
}

// The tensors of a file, under diffusers' names.
StateDict vae_tensors(const StateDict& tensors, const std::string& label, std::vector<std::string>& notes) {
  if (has_prefix(tensors, "encoder.down_blocks.")) return tensors;
  const auto whole = has_prefix(tensors, kVae) ? tensors : as_in_a_checkpoint(tensors);
  if (has_prefix(whole, std::string(kVae) + "encoder.down."))
    return split_by_prefix(whole, {vae_rule(whole)}, label, notes).at("vae");
  std::vector<std::string> names;
  for (const auto& [name, t] : tensors) names.push_back(name);
  fail(ErrorKind::unsupported, "{}: not a VAE of Stable Diffusion; its tensors: {}", label,
       names.empty() ? "none" : listing(names, 4));
}

Checkpoint open_vae_file(const fs::path& file, const VaeFamily& family, std::vector<std::string>& notes) {
  const auto label = file.string();
  const auto tensors = vae_tensors(load_state_dict(file), label, notes);
  try {
    auto config = vae_config(family.pipeline, tensors);
    for (const char* field : {"scaling_factor", "shift_factor", "force_upcast", "norm_num_groups"})
      if (family.own.contains(field)) config[field] = family.own[field];
    return make_component(config, tensors, label, "VAE");
  } catch (const Error& error) {
    throw Error(error.kind(), label + ": " + error.what());
  }
}

Checkpoint open_vae_folder(const fs::path& folder, const std::string& variant, std::vector<std::string>& notes) {
  const bool falls_back = !variant.empty() && !has_variant(file_names(folder), kDiffusersFiles, variant);
  if (falls_back) notes.push_back(note_of_no_variant(folder.string(), variant));
  return open_component(folder, kDiffusersFiles, falls_back ? "" : variant);
}

template <class T>
T field(const json& config, const char* name, const T& fallback, const std::string& label) {
  auto value = config.value(name, json());
  check(value.is_null() || json(fallback).is_number() == value.is_number(), ErrorKind::bad_file,
        "{}: config.json has {} in {}", label, value.dump(), name);
  return value.is_null() ? fallback : value.get<T>();
}

void check_fits(const Checkpoint& vae, const VaeFamily& family) {
  const auto config = json::parse(vae.config);
  check(config.is_object(), ErrorKind::bad_file, "{}: config.json is not an object", vae.label);
  const auto class_name = field<std::string>(config, "_class_name", "AutoencoderKL", vae.label);
  check(class_name == "AutoencoderKL", ErrorKind::unsupported, "{}: is of class {}. {} supports only AutoencoderKL",
        vae.label, class_name, family.pipeline);
  const auto channels = field<int64_t>(config, "latent_channels", 4, vae.label);
  check(channels == family.latent_channels, ErrorKind::unsupported,
        "{}: is a VAE of another family: it has {} latent channels, but {} has {}", vae.label, channels, family.model,
        family.latent_channels);
  const auto scaling_factor = field<double>(config, "scaling_factor", kDefaultScalingFactor, vae.label);
  const auto wanted = family.own.is_null() ? vae_config(family.pipeline, vae.tensors)["scaling_factor"].get<double>()
                                           : family.own.value("scaling_factor", kDefaultScalingFactor);
  check(std::abs(scaling_factor - wanted) < 1e-6, ErrorKind::unsupported,
        "{}: is a VAE of another family: its scaling_factor is {}; that of {} is {}", vae.label,
        with_family(scaling_factor), family.model, with_family(wanted));
}

}  // namespace

Checkpoint open_vae(const fs::path& path, const VaeFamily& family, const std::string& variant,
                    std::vector<std::string>& notes) {
  check(fs::exists(path), ErrorKind::not_found, "{}: there is no such folder or file of a VAE{}", path.string(),
        is_repository(path) ? ". `lora download` downloads one from the Hub, and prints its path" : "");
  auto vae = fs::is_directory(path) ? open_vae_folder(path, variant, notes) : open_vae_file(path, family, notes);
  check_fits(vae, family);
  return vae;
}

}  // namespace lora
