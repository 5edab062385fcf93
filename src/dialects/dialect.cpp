#include "dialects/dialect.h"

#include <algorithm>

#include "core/check.h"
#include "core/text.h"
#include "dialects/tables.h"

namespace lora {

std::optional<std::string> take_prefix(std::string_view& key, std::span<const Row> rows) {
  for (auto [theirs, ours] : rows)
    if (key.starts_with(theirs)) {
      key.remove_prefix(theirs.size());
      return std::string(ours);
    }
  return std::nullopt;
}

std::optional<std::string> take_suffix(std::string_view& key, std::span<const Row> rows) {
  for (auto [theirs, ours] : rows)
    if (key.ends_with(theirs)) {
      key.remove_suffix(theirs.size());
      return std::string(ours);
    }
  return std::nullopt;
}

const std::vector<Dialect>& dialects() {
  static const std::vector<Dialect> all = {
      {"kohya", "lora_unet_mid_block_attentions_0_proj_in.lora_down.weight", read_kohya},
      {"peft", "base_model.model.mid_block.attentions.0.proj_in.lora_A.weight", read_peft},
      {"diffusers", "unet.mid_block.attentions.0.proj_in.lora_A.weight", read_diffusers},
      {"diffusers-2023", "unet.mid_block.attentions.0.proj_in.lora.down.weight", read_diffusers_layers},
      {"diffusers-attn-procs", "mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.down.weight",
       read_attention_processors},
  };
  return all;
}

namespace {

// Parts of keys that say what a file is, where it is no LoRA that can be read here.
struct Sign {
  std::string_view part, what;
};

// Ends of keys, and beginnings of their last part, that only other algorithms have. Loading such a file as plain LoRA
// would draw the wrong picture, so one key is enough.
constexpr Sign kOtherEndings[] = {
    {".lora_mid.weight", "LoCon with a tucker core"},
    {".a1.weight", "GLoRA"},
    {".on_input", "IA3"},
};
constexpr Sign kOtherParts[] = {
    {".hada_w", "LoHa"},
    {".lokr_w", "LoKr"},
    {".oft_blocks", "OFT"},
    {".oft_R", "OFT"},
};

constexpr Sign kOtherFiles[] = {
    {"lllite_unet_", "a ControlNet-LLLite file"},
    {"lora_controlnet", "a Control-LoRA"},
    {"string_to_param", "a textual inversion embedding"},
    {"emb_params", "a textual inversion embedding"},
    {"image_proj.", "an IP-Adapter"},
    {"model.diffusion_model.", "a whole checkpoint"},
    {"first_stage_model.", "a whole checkpoint"},
    {"time_embedding.linear_1.", "a UNet's own weights"},
    {"text_model.encoder.", "a text encoder's own weights"},
    {"decoder.conv_in.", "a VAE's own weights"},
};

std::string looks_like(const StateDict& file) {
  for (auto [part, what] : kOtherFiles)
    for (const auto& [key, tensor] : file)
      if (key.find(part) != std::string::npos) return fmt::format("it looks like {} (it has \"{}\")", what, key);
  return file.empty() ? "it holds no tensors" : fmt::format("its first key is \"{}\"", file.begin()->first);
}

void refuse_other_algorithms(const StateDict& file, const std::string& label) {
  auto refuse = [&](const std::string& key, std::string_view what) {
    fail(ErrorKind::unsupported,
         "{}: the file is of the kind {} (it has \"{}\"); LoRA, DoRA and full differences are what can be loaded",
         label, what, key);
  };
  for (const auto& [key, tensor] : file) {
    for (auto [ending, what] : kOtherEndings)
      if (key.ends_with(ending)) refuse(key, what);
    for (auto [part, what] : kOtherParts)
      if (key.find(part) != std::string::npos) refuse(key, what);
  }
}

}  // namespace

Canonical to_canonical(const StateDict& file, const std::string& denoiser, const std::string& label) {
  refuse_other_algorithms(file, label);
  Canonical result;
  result.tensors.metadata = file.metadata;
  std::vector<size_t> hits(dialects().size());
  for (const auto& [key, tensor] : file) {
    std::optional<CanonicalKey> read;
    for (size_t i = 0; i < hits.size() && !read; ++i) {
      read = dialects()[i].read(key);
      hits[i] += read.has_value();
    }
    if (!read) {
      result.unmatched.push_back({key, "no known dialect has such a key"});
      continue;
    }
    auto name = (read->component.empty() ? denoiser : read->component) + "." + read->path + "." + read->suffix;
    if (result.tensors.contains(name))
      result.unmatched.push_back({key, "another key of the file names the same tensor, " + name});
    else
      result.tensors.set(name, tensor);
  }
  check(!result.tensors.empty(), ErrorKind::bad_key, "{}: no LoRA in this file; {}", label, looks_like(file));

  std::vector<std::pair<size_t, std::string>> spoken;
  for (size_t i = 0; i < hits.size(); ++i)
    if (hits[i]) spoken.emplace_back(hits[i], dialects()[i].name);
  std::stable_sort(spoken.begin(), spoken.end(), [](auto& a, auto& b) { return a.first > b.first; });
  std::vector<std::string> names;
  for (auto& [count, name] : spoken) names.push_back(name);
  result.dialect = join(names, " + ");
  return result;
}

}  // namespace lora
