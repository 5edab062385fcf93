#include "dialects/spell.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "adapters/make_delta.h"
#include "core/check.h"
#include "core/text.h"
#include "dialects/fused.h"
#include "dialects/tables.h"

namespace lora {

std::vector<NamedModule> modules_of(const StateDict& canonical) {
  std::vector<NamedModule> modules;
  std::unordered_map<std::string, size_t> where;
  for (const auto& [key, tensor] : canonical) {
    constexpr std::string_view kAlpha = "alpha";  // which the algorithms never see among their tensors
    bool is_alpha = key.ends_with(".alpha");
    auto [module, suffix] =
        is_alpha ? std::pair(key.substr(0, key.size() - kAlpha.size() - 1), kAlpha) : split_key(key);
    check(!suffix.empty(), ErrorKind::bad_key, "\"{}\" is no canonical tensor of an adapter", key);
    auto [it, fresh] = where.emplace(module, modules.size());
    auto dot = module.find('.');
    if (fresh) modules.push_back({module.substr(0, dot), module.substr(dot + 1), {}});
    modules[it->second].tensors.emplace(suffix, tensor);
  }
  return modules;
}

namespace {

double number(const Tensor& t) { return t.to(at::kDouble).item<double>(); }

double scale_of(const Module& m) {
  if (auto scale = m.find("scale"); scale != m.end()) return number(scale->second);
  auto alpha = m.find("alpha");
  auto A = m.find("lora_A.weight");
  return alpha == m.end() || A == m.end() ? 1.0 : number(alpha->second) / double(A->second.size(0));
}

// ---- The forms in which kohya's family and PEFT's hold the same thing -----------------------------------------------

bool is_norm(const Module& m) {
  auto diff = m.find("diff"), bias = m.find("diff_b");
  return diff != m.end() ? diff->second.dim() == 1 : m.size() == 1 && bias != m.end();
}

// Where a convolution's magnitudes stand.
std::vector<int64_t> column(const Tensor& magnitude, const Module& m) {
  std::vector<int64_t> shape{magnitude.numel(), 1};
  if (auto A = m.find("lora_A.weight"); A != m.end() && A->second.dim() == 4) shape.insert(shape.end(), {1, 1});
  return shape;
}

// With what PEFT has in another form as LyCORIS has it.
Module as_lycoris(Module m) {
  if (auto bias = m.find("lora_B.bias"); bias != m.end()) {
    m["diff_b"] = (bias->second.to(at::kFloat) * scale_of(m)).to(bias->second.scalar_type());
    m.erase("lora_B.bias");
  }
  if (auto magnitude = m.find("lora_magnitude_vector"); magnitude != m.end()) {
    m["dora_scale"] = magnitude->second.reshape(column(magnitude->second, m));
    m.erase("lora_magnitude_vector");
  }
  if (auto factor = m.find("ia3_l"); factor != m.end()) {
    check(factor->second.dim() == 2, ErrorKind::unsupported, "PEFT's IA3 on a convolution, which does not say of what");
    m["on_input"] = at::scalar_tensor(factor->second.size(0) == 1, at::kBool);
    m["weight"] = factor->second.flatten() - 1;
    m.erase("ia3_l");
  }
  auto A = m.find("lora_A.weight");
  if (auto scale = m.find("scale"); scale != m.end() && A != m.end()) {
    m["alpha"] = at::scalar_tensor(number(scale->second) * double(A->second.size(0)));
    m.erase("scale");
  }
  if (A != m.end() && !m.contains("alpha")) m["alpha"] = at::scalar_tensor(double(A->second.size(0)));
  return m;
}

// With what LyCORIS has in another form as PEFT has it.
Module as_peft(Module m) {
  bool factors = m.contains("lora_B.weight");
  if (auto bias = m.find("diff_b"); factors && bias != m.end()) {
    m["lora_B.bias"] = (bias->second.to(at::kFloat) / scale_of(m)).to(bias->second.scalar_type());
    m.erase("diff_b");
  }
  if (auto m2 = m.find("dora_scale"); factors && m2 != m.end() && m2->second.size(0) == m2->second.numel()) {
    auto out = m2->second.numel();
    bool conv = m.at("lora_A.weight").dim() == 4;
    m["lora_magnitude_vector"] = m2->second.reshape(conv ? std::vector<int64_t>{1, out, 1, 1} : std::vector{out});
    m.erase("dora_scale");
  }
  m.erase("alpha");
  m.erase("scale");
  return m;
}

// ---- Names
// ------------------------------------------------------------------------------------------------------------

std::string flat(const std::string& path) { return replace_all(path, ".", "_"); }

struct TextName {
  std::string_view family, component, kohya, comfy;
};
// "" for every family that has no row of its own.
constexpr TextName kTextNames[] = {
    {"SD 1.x", "text_encoder", "lora_te_", "clip_l"}, {"SD 2.x", "text_encoder", "lora_te_", "clip_h"},
    {"Flux", "text_encoder_2", "lora_te3_", "t5xxl"}, {"", "text_encoder", "lora_te1_", "clip_l"},
    {"", "text_encoder_2", "lora_te2_", "clip_g"},    {"", "text_encoder_3", "lora_te3_", "t5xxl"},
};

// A file for nothing known has numbers in its text encoders' names where there are several.
std::string family_of_texts(const std::vector<NamedModule>& modules, const std::string& family) {
  bool several = std::any_of(modules.begin(), modules.end(), [](auto& m) { return m.component == "text_encoder_2"; });
  return family.empty() && !several ? "SD 1.x" : family;
}

const TextName& text_name(const std::string& component, const std::string& family) {
  for (const auto& row : kTextNames)
    if (row.component == component && (row.family.empty() || row.family == family)) return row;
  fail(ErrorKind::unsupported, "{}: no file of another program has a component of that name", component);
}

// What cannot be said, by reason, with the layers that it is about.
class Refused {
 public:
  void add(const std::string& reason, const std::string& layer) { layers_[reason].push_back(layer); }
  void tell(const std::string& target) const {
    std::vector<std::string> all;
    for (const auto& [reason, layers] : layers_)
      all.push_back(fmt::format("{} ({} layers: {})", reason, layers.size(), listing(layers, 3)));
    check(all.empty(), ErrorKind::unsupported, "{} cannot say all that this file does: {}", target, join(all, "; "));
  }

 private:
  std::map<std::string, std::vector<std::string>> layers_;
};

// One tensor, made by `module` when it is asked for.
Spelled spelled(const NamedModule& of, std::string key, const std::string& suffix, const Tensor& like,
                std::function<Module()> module) {
  return {of.component, std::move(key), like.scalar_type(), like.sizes().vec(),
          [suffix, module = std::move(module)] { return module().at(suffix); }};
}

// ---- kohya and ComfyUI
// ------------------------------------------------------------------------------------------------

// One layer of the target's, with what goes into it.
struct Place {
  std::string component, path;
  Halves halves = Halves::as_they_are;
  std::vector<std::pair<Share, Module>> parts;
  bool swaps = false;
};

// How wide Stable Diffusion 3's blocks are, as far as the file tells; 0 where it does not.
int64_t block_width(const std::vector<NamedModule>& modules) {
  for (const auto& m : modules)
    if (m.path.starts_with("transformer_blocks.") && !m.path.ends_with(".net.2"))
      if (auto columns = columns_of(m.tensors)) return columns;
  return 0;
}

// Only the last block's modulation, of two rows a column, has its halves the other way round.
bool swaps_halves(const Place& place, int64_t width) {
  auto rows = rows_of(place.parts.front().second);
  if (place.halves != Halves::swapped_if_two || rows == 0) return place.halves == Halves::swapped;
  check(width > 0, ErrorKind::unsupported, "{} does not tell whether it is the last block's", place.path);
  return rows == 2 * width;
}

std::vector<Place> places(const std::vector<NamedModule>& modules, const std::string& target, const std::string& family,
                          Refused& refused) {
  bool diffusers_names = target == "kohya" && (family.empty() || family == "SD 1.x" || family == "SD 2.x");
  std::vector<Place> all;
  std::unordered_map<std::string, size_t> where;
  for (const auto& m : modules) {
    std::optional<NativePlace> native;
    if (m.component.starts_with("text_encoder") || diffusers_names)
      native = NativePlace{m.path};
    else
      native = native_place(m.path, family);
    if (!native) {
      refused.add("the model's own code has no such layer", m.component + "." + m.path);
      continue;
    }
    auto [it, fresh] = where.emplace(m.component + "." + native->path, all.size());
    if (fresh) all.push_back({m.component, native->path, native->halves, {}});
    all[it->second].parts.emplace_back(native->share, m.tensors);
  }
  auto width = block_width(modules);
  for (auto& place : all) {
    place.swaps = swaps_halves(place, width);
    std::sort(place.parts.begin(), place.parts.end(), [](auto& a, auto& b) { return a.first.begin < b.first.begin; });
  }
  return all;
}

// The place's adapter as the target has it. Asked once with tensors without data for the sizes, and again for each
// tensor.
Module made(const Place& place, bool same, const std::string& label) {
  auto parts = place.parts;
  for (auto& [share, module] : parts) module = as_lycoris(std::move(module));
  auto module = parts.size() == 1 && parts.front().first.whole() ? parts.front().second : joined(parts, same, label);
  return place.swaps ? with_halves_swapped(module, label) : module;
}

std::string key_of(const Place& place, const std::string& target, const std::string& family) {
  bool text = place.component.starts_with("text_encoder");
  if (target == "kohya")
    return (text ? std::string(text_name(place.component, family).kohya) : "lora_unet_") + flat(place.path);
  if (!text) return "diffusion_model." + place.path;
  return fmt::format("text_encoders.{}.transformer.{}", text_name(place.component, family).comfy, place.path);
}

std::vector<Spelled> spell_native(const std::vector<NamedModule>& modules, const std::string& target,
                                  const std::string& family) {
  check(family != "aMUSEd", ErrorKind::unsupported, "{} has no names for aMUSEd; diffusers and peft have", target);
  bool transformer = std::any_of(modules.begin(), modules.end(), [](auto& m) { return m.component == "transformer"; });
  // kohya's names for a UNet that nobody published are diffusers', as for Stable Diffusion 1.
  check(!family.empty() || (target == "kohya" && !transformer), ErrorKind::unsupported,
        "the file does not tell its base model, on which the names of {} depend", target);
  Refused refused;
  std::vector<Spelled> all;
  auto texts = family_of_texts(modules, family);
  for (const auto& found : places(modules, target, family, refused)) {
    auto place = std::make_shared<const Place>(found);
    auto key = key_of(*place, target, texts), label = place->component + "." + place->path;
    try {
      std::vector<Module> inputs;
      for (const auto& [share, module] : place->parts) inputs.push_back(as_lycoris(module));
      bool same = same_inputs(inputs);
      auto module = made(*place, same, label);
      bool norm = is_norm(module);
      for (const auto& [suffix, tensor] : module) {
        auto theirs = norm ? (suffix == "diff" ? ".w_norm" : ".b_norm") : kohya_suffix(suffix);
        check(!theirs.empty(), ErrorKind::unsupported, "{} has no place there", suffix);
        all.push_back(spelled({place->component, place->path, {}}, key + std::string(theirs), suffix, tensor,
                              [place, same, label] { return made(*place, same, label); }));
      }
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::unsupported) throw;
      refused.add(replace_all(error.what(), label + ": ", ""), label);
    }
  }
  refused.tell(target);
  return all;
}

// ---- diffusers and PEFT
// -----------------------------------------------------------------------------------------------

bool is_plain(std::string_view suffix) {
  for (auto known : {"lora_A.weight", "lora_B.weight", "lora_B.bias", "lora_magnitude_vector"})
    if (suffix == known) return true;
  return false;
}

std::string what_is(std::string_view suffix) {
  if (suffix.starts_with("hada_")) return "LoHa";
  if (suffix.starts_with("lokr_")) return "LoKr";
  if (suffix.starts_with("oft_") || suffix == "rescale") return "OFT";
  if (suffix == "lora_mid.weight") return "LoCon with a tucker core";
  if (suffix == "dora_scale") return "DoRA with a magnitude for each input, or on another kind than LoRA";
  if (suffix == "diff" || suffix == "diff_b") return "full differences";
  if (suffix == "weight" || suffix == "on_input" || suffix == "ia3_l") return "IA3";
  return "GLoRA";
}

// PEFT puts a word's embedding the other way round, and says so.
std::string peft_suffix(const std::string& path, const std::string& suffix) {
  bool embedding = path.ends_with("token_embedding") || path.ends_with("position_embedding") || path == "shared";
  if (embedding && suffix == "lora_A.weight") return "lora_embedding_A";
  if (embedding && suffix == "lora_B.weight") return "lora_embedding_B";
  return suffix;
}

// transformers 5 has CLIPTextModel's layers without a level above them; with a projection it kept the level.
std::string peft_path(const NamedModule& m, const std::string& family) {
  bool plain_clip = m.component == "text_encoder" && family != "SD 3" && family != "aMUSEd";
  constexpr std::string_view kLevel = "text_model.";
  return plain_clip && m.path.starts_with(kLevel) ? m.path.substr(kLevel.size()) : m.path;
}

std::vector<Spelled> spell_dotted(const std::vector<NamedModule>& modules, const std::string& target,
                                  const std::string& family) {
  Refused refused;
  std::vector<Spelled> all;
  for (const auto& m : modules) {
    auto module = as_peft(m.tensors);
    for (const auto& [suffix, tensor] : module) {
      if (!is_plain(suffix)) {
        refused.add(what_is(suffix), m.component + "." + m.path);
        break;
      }
      auto prefix = target == "peft" ? "base_model.model." + peft_path(m, family) : m.component + "." + m.path;
      all.push_back(spelled(m, prefix + "." + peft_suffix(m.path, suffix), suffix, tensor,
                            [tensors = m.tensors] { return as_peft(tensors); }));
    }
  }
  refused.tell(target);
  return all;
}

}  // namespace

std::vector<Spelled> spell(const StateDict& canonical, const std::string& target, const std::string& family) {
  auto modules = modules_of(canonical);
  if (target == "kohya" || target == "comfy") return spell_native(modules, target, family);
  check(target == "diffusers" || target == "peft", ErrorKind::usage,
        "\"{}\" is no format that can be written; there are: diffusers, peft, kohya, comfy", target);
  return spell_dotted(modules, target, family);
}

}  // namespace lora
