#include "checkpoints/text_encoder_file.h"

#include <algorithm>

#include "checkpoints/published_configs.h"
#include "checkpoints/repository.h"
#include "checkpoints/single_file_rules.h"
#include "core/check.h"
#include "core/text.h"
#include "names/ldm.h"

namespace lora {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

constexpr std::pair<std::string_view, std::string_view> kNames[] = {
    {"clip_l", "text_encoder"},       {"clip_g", "text_encoder_2"},         {"t5xxl", "text_encoder_3"},
    {"text_encoder", "text_encoder"}, {"text_encoder_2", "text_encoder_2"}, {"text_encoder_3", "text_encoder_3"}};

constexpr const char *kT5 = "T5EncoderModel", *kProjecting = "CLIPTextModelWithProjection";

// How the names of a file begin.
enum class Layout { none, clip, open_clip, t5 };

Layout layout_of(const StateDict& tensors) {
  if (has_prefix(tensors, "encoder.block.")) return Layout::t5;
  if (has_prefix(tensors, "transformer.resblocks.")) return Layout::open_clip;
  const bool clip = has_prefix(tensors, "text_model.encoder.layers.") || has_prefix(tensors, "encoder.layers.");
  return clip ? Layout::clip : Layout::none;
}

std::string unchanged(std::string_view name) { return std::string(name); }

std::string clip_name(std::string_view name) {
  return name.starts_with("text_projection.") ? std::string(name) : clip_name_from_ldm(name);
}

// Tensors that training and other models leave in files.
constexpr std::string_view kUnused[] = {"logit_scale", "attn_mask", "text_model.embeddings.position_ids",
                                        "embeddings.position_ids"};

// The tensors of a file, under transformers' names.
StateDict renamed(const StateDict& tensors, Layout layout, const std::string& component, const std::string& label,
                  std::vector<std::string>& notes) {
  StateDict used;
  for (const auto& [name, t] : tensors)
    if (std::ranges::find(kUnused, name) == std::end(kUnused)) used.set(name, t);
  auto rename = layout == Layout::t5 ? unchanged : layout == Layout::clip ? clip_name : clip_name_from_open_clip;
  auto all = split_by_prefix(used, {{"", component.c_str(), rename}}, label, notes).at(component);
  if (layout == Layout::open_clip && all.contains("text_projection.weight")) transpose_projection(all);
  return all;
}

json config_of(StateDict& tensors, Layout layout, const TextEncoderFamily& family) {
  if (layout == Layout::t5) return t5_config(tensors);
  const auto width = dimension(tensors, "text_model.embeddings.token_embedding.weight", 1);
  const bool sd = family.pipeline == "StableDiffusionPipeline";
  // The encoder of Stable Diffusion 2, or another one of OpenCLIP.
  const bool open_clip =
      family.component == "text_encoder_2" || layout == Layout::open_clip || (sd && width == kOpenClipHWidth);
  const bool gelu = family.own.is_null() ? open_clip : family.own.value("hidden_act", "quick_gelu") == "gelu";
  if (sd && gelu) tensors = without_last_layer(tensors);
  if (family.pipeline == "StableDiffusion3Pipeline" && family.component == "text_encoder")
    set_identity_projection(tensors);
  const char* act = gelu ? "gelu" : "quick_gelu";
  if (family.class_name == kProjecting) return clip_config(tensors, act);
  return clip_config(tensors, act, sd && gelu ? 512 : 768);
}

Checkpoint open_file(const fs::path& file, const TextEncoderFamily& family, std::vector<std::string>& notes) {
  const auto label = file.string();
  const auto given = load_state_dict(file);
  const auto layout = layout_of(given);
  std::vector<std::string> names;
  for (const auto& [name, t] : given) names.push_back(name);
  check(layout != Layout::none, ErrorKind::unsupported, "{}: not a text encoder; its tensors: {}", label,
        names.empty() ? "none" : listing(names, 4));
  check((layout == Layout::t5) == (family.class_name == kT5), ErrorKind::unsupported,
        "{}: is a {} text encoder, but {} of {} is a {}", label, layout == Layout::t5 ? "T5" : "CLIP", family.component,
        family.pipeline, family.class_name);
  try {
    auto tensors = renamed(given, layout, family.component, label, notes);
    auto config = config_of(tensors, layout, family);
    for (const char* field : {"architectures", "hidden_act", "num_attention_heads", "layer_norm_eps", "bos_token_id",
                              "eos_token_id", "pad_token_id", "relative_attention_max_distance", "layer_norm_epsilon"})
      if (family.own.contains(field)) config[field] = family.own[field];
    return make_component(config, tensors, label, family.component);
  } catch (const Error& error) {
    throw Error(error.kind(), label + ": " + error.what());
  }
}

Checkpoint open_folder(const fs::path& folder, const std::string& variant, std::vector<std::string>& notes) {
  const bool falls_back = !variant.empty() && !has_variant(file_names(folder), kTransformersFiles, variant);
  if (falls_back) notes.push_back(note_of_no_variant(folder.string(), variant));
  return open_component(folder, kTransformersFiles, falls_back ? "" : variant);
}

std::string class_of(const json& config) {
  if (config.value("model_type", json()) == "t5") return kT5;
  const auto classes = config.value("architectures", json());
  return classes.is_array() && classes.size() == 1 && classes[0].is_string() ? classes[0].get<std::string>()
                                                                             : "CLIPTextModel";
}

int64_t size(const json& config, const char* field, int64_t fallback = 0) {
  const auto value = config.value(field, json());
  return value.is_number_integer() ? value.get<int64_t>() : fallback;
}

// The width of a text encoder's states.
int64_t width_of(const json& config) {
  return config.contains("d_model") ? size(config, "d_model") : size(config, "hidden_size", 512);
}

void check_fits(const Checkpoint& encoder, const TextEncoderFamily& family) {
  const auto config = json::parse(encoder.config);
  check(config.is_object(), ErrorKind::bad_file, "{}: config.json is not an object", encoder.label);
  const auto given = class_of(config);
  check(given == family.class_name, ErrorKind::unsupported, "{}: is of class {}. {} of {} is a {}", encoder.label,
        given, family.component, family.pipeline, family.class_name);
  if (family.own.is_null()) return;
  auto compare = [&](const char* what, int64_t theirs, int64_t ours) {
    check(theirs == ours, ErrorKind::unsupported,
          "{}: is a text encoder of another shape: its {} is {}; that of the {} of {} is {}", encoder.label, what,
          theirs, family.component, family.model, ours);
  };
  compare("width", width_of(config), width_of(family.own));
  compare("vocabulary", size(config, "vocab_size"), size(family.own, "vocab_size"));
  if (family.class_name == kProjecting)
    compare("projection", size(config, "projection_dim", 512), size(family.own, "projection_dim", 512));
}

}  // namespace

std::string text_encoder_component(std::string_view name) {
  for (auto [given, component] : kNames)
    if (given == name) return std::string(component);
  return {};
}

Checkpoint open_text_encoder(const fs::path& path, const TextEncoderFamily& family, const std::string& variant,
                             std::vector<std::string>& notes) {
  check(fs::exists(path), ErrorKind::not_found, "{}: there is no such folder or file of a text encoder{}",
        path.string(), is_repository(path) ? ". `lora download` downloads one from the Hub, and prints its path" : "");
  auto encoder = fs::is_directory(path) ? open_folder(path, variant, notes) : open_file(path, family, notes);
  check_fits(encoder, family);
  return encoder;
}

void check_text_encoders_fit(const std::map<std::string, json>& configs, const json& denoiser,
                             std::string_view pipeline, const std::string& model) {
  std::vector<std::string> clips;
  for (const auto& [component, config] : configs)
    if (class_of(config) != kT5) clips.push_back(component);
  auto check_sum = [&](const std::vector<std::string>& components, const char* what, auto size_of, int64_t wanted) {
    int64_t sum = 0;
    std::vector<std::string> sizes;
    for (const auto& component : components) {
      sum += size_of(configs.at(component));
      sizes.push_back(fmt::format("{} has {}", component, size_of(configs.at(component))));
    }
    check(sizes.empty() || sum == wanted, ErrorKind::unsupported,
          "{}: the text encoders do not fit the model. It reads {} of width {}, but {}", model, what, wanted,
          join(sizes, " and "));
  };
  auto projection = [](const json& config) { return size(config, "projection_dim", 512); };
  if (pipeline == "StableDiffusion3Pipeline") {
    if (clips.size() == 2) check_sum(clips, "projections", projection, size(denoiser, "pooled_projection_dim", 2048));
    if (configs.contains("text_encoder_3"))
      check_sum({"text_encoder_3"}, "states", width_of, size(denoiser, "joint_attention_dim", 4096));
  } else if (pipeline == "AmusedPipeline") {
    check_sum(clips, "states", width_of, size(denoiser, "encoder_hidden_size", 768));
  } else {
    check_sum(clips, "states", width_of, size(denoiser, "cross_attention_dim", 1280));
  }
  if (clips.size() == 2)
    check(width_of(configs.at(clips[0])) <= width_of(configs.at(clips[1])), ErrorKind::unsupported,
          "{}: the widths of text_encoder and text_encoder_2 are {} and {}. Give each for the other", model,
          width_of(configs.at(clips[0])), width_of(configs.at(clips[1])));
}

}  // namespace lora
