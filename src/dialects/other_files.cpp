#include "dialects/other_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <vector>

#include "core/check.h"
#include "core/text.h"
#include "dialects/textual_inversion.h"
#include "kinds/kinds.h"

namespace lora {

namespace {

// Parts of keys that say what a file is, where it is no LoRA that can be read here.
struct Sign {
  std::string_view part, what;
};

constexpr std::string_view kInversion = "a textual inversion embedding";

constexpr Sign kOtherFiles[] = {
    {"lllite_unet_", "a ControlNet-LLLite file"},
    {"lora_controlnet", "a Control-LoRA"},
    {"_ip.weight", "an IP-Adapter"},
    {"custom_diffusion", "a custom diffusion file"},
    {"string_to_param", kInversion},
    {"emb_params", kInversion},
    {"clip_g", kInversion},
    {"bundle_emb.", kInversion},
    {"image_proj.", "an IP-Adapter"},
    {"model.diffusion_model.", "a whole checkpoint"},
    {"first_stage_model.", "a whole checkpoint"},
    {"time_embedding.linear_1.", "a UNet's own weights"},
    {"text_model.encoder.", "a text encoder's own weights"},
    {"decoder.conv_in.", "a VAE's own weights"},
    {"clip_l", kInversion},
    {"clip_g", kInversion},
};

// Of the text encoders of Stable Diffusion 1, 2, XL and 3.
constexpr int64_t kWidths[] = {768, 1024, 1280, 4096};

// It has no tensor of an adapter: "it looks like a whole checkpoint (it has …)", or its first key.
std::string looks_like(const StateDict& file) {
  const auto [what, key] = other_file(file);
  if (const auto inversion = what == kInversion ? read_textual_inversion(file) : std::nullopt)
    return fmt::format("it looks like {} (it has \"{}\"), of {}. load_textual_inversion() loads it", what, key,
                       sizes_of(*inversion));
  if (!what.empty()) return fmt::format("it looks like {} (it has \"{}\")", what, key);
  return file.empty() ? "it holds no tensors" : fmt::format("its first key is \"{}\"", file.begin()->first);
}

// How T-LoRA (arXiv:2507.05964) in LyCORIS ends its keys.
constexpr std::string_view kTLoraEnds[] = {".q_layer.weight", ".p_layer.weight", ".lambda_layer"};
constexpr const char* kTLora =
    "T-LoRA, which cannot be loaded: its change depends on the timestep, and on singular vectors of the base weights "
    "that the file does not hold. Convert it to plain LoRA with the program that trained it";

// How the names of an adapter's layers begin, in the spellings that have a prefix.
constexpr std::string_view kPrefixes[] = {"lora_unet_", "lora_te",   "lora_transformer_",
                                          "lycoris_",   "oft_unet_", "base_model.model."};

template <size_t N>
bool ends_with_any(std::string_view key, const std::string_view (&ends)[N]) {
  return std::any_of(std::begin(ends), std::end(ends), [&](auto end) { return key.ends_with(end); });
}

// "tlora_p" of "lora_unet_….tlora_p"; "" where a key does not begin as an adapter's.
std::string_view end_of_adapter_key(std::string_view key) {
  bool begins = std::any_of(std::begin(kPrefixes), std::end(kPrefixes), [&](auto p) { return key.starts_with(p); });
  if (key.ends_with(".weight")) key.remove_suffix(std::string_view(".weight").size());
  auto dot = key.rfind('.');
  return begins && dot != key.npos ? key.substr(dot + 1) : std::string_view();
}

}  // namespace

OtherFile other_file(const StateDict& file) {
  for (auto [part, what] : kOtherFiles)
    for (const auto& [key, tensor] : file)
      if (key.find(part) != std::string::npos) return {what, key};
  // The one key of diffusers' form may be any word, so that the width must be that of a published text encoder.
  const auto inversion = read_textual_inversion(file);
  if (!inversion) return {};
  const auto& [word, component, key, vectors] = inversion->embeddings.front();
  if (std::ranges::find(kWidths, vectors.size(-1)) != std::end(kWidths)) return {kInversion, key};
  return {};
}

std::string why_not_read(std::string_view key) {
  if (ends_with_any(key, kTLoraEnds)) return kTLora;
  if (is_adapter_key(key)) return "no known model has a layer of this name";
  if (auto end = end_of_adapter_key(key); !end.empty())
    return fmt::format("no kind of adapter that is known here has a tensor \"{}\"", end);
  return "no known dialect has such a key";
}

void check_no_unknown_method(const StateDict& file, const std::string& label) {
  for (const auto& [key, tensor] : file)
    check(!ends_with_any(key, kTLoraEnds), ErrorKind::unsupported, "{}: {} (it has \"{}\")", label, kTLora, key);
}

void fail_without_layers(const StateDict& file, const std::string& label) {
  std::set<std::string> ends, names;
  for (const auto& [key, tensor] : file) {
    if (key.find("lllite") != key.npos) continue;
    if (is_adapter_key(key))
      names.insert(key);
    else if (auto end = end_of_adapter_key(key); !end.empty() && end != kAlpha && end != kScale)
      ends.emplace(end);
  }
  auto some = [](const std::set<std::string>& all) {
    return listing(std::vector<std::string>(all.begin(), all.end()), 3);
  };
  check(ends.empty(), ErrorKind::unsupported,
        "{}: holds an adapter of a kind that is not known here. Its tensors have the names {}, so nothing in it can be "
        "used",
        label, some(ends));
  check(names.empty(), ErrorKind::bad_key,
        "{}: holds an adapter, but no known model has layers of these names, so nothing in it can be used: {}", label,
        some(names));
  fail(ErrorKind::bad_key, "{}: no LoRA in this file; {}", label, looks_like(file));
}

}  // namespace lora
