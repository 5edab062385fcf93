#include "dialects/dialect.h"

#include "dialects/tables.h"
#include "kinds/diff.h"

namespace lora {

std::optional<std::string_view> take_prefix(std::string_view& key, std::span<const Row> rows) {
  for (auto [theirs, ours] : rows)
    if (key.starts_with(theirs)) {
      key.remove_prefix(theirs.size());
      return ours;
    }
  return std::nullopt;
}

std::optional<std::string_view> take_suffix(std::string_view& key, std::span<const Row> rows) {
  for (auto [theirs, ours] : rows)
    if (key.ends_with(theirs)) {
      key.remove_suffix(theirs.size());
      return ours;
    }
  return std::nullopt;
}

std::string_view take_known_end(std::string_view& key) {
  auto suffix = take_peft_end(key);
  return suffix.empty() ? take_kohya_end(key) : suffix;
}

std::string_view take_whole_bias(std::string_view& key) {
  constexpr std::string_view kBias = ".bias";
  bool of_adapter = key.find("lora") != key.npos || key.ends_with(".down.bias") || key.ends_with(".up.bias");
  if (!key.ends_with(kBias) || of_adapter) return "";
  key.remove_suffix(kBias.size());
  return kWholeBias;
}

const std::vector<Dialect>& dialects() {
  static const std::vector<Dialect> all = {
      {"kohya", "lora_unet_mid_block_attentions_0_proj_in.lora_down.weight", read_kohya},
      {"onetrainer", "lora_transformer_transformer_blocks_0_attn_to_q.lora_down.weight", read_onetrainer},
      {"lycoris", "lycoris_mid_block_attentions_0_proj_in.lokr_w1", read_lycoris},
      {"peft", "base_model.model.mid_block.attentions.0.proj_in.lora_A.weight", read_peft},
      {"xlabs", "double_blocks.0.processor.qkv_lora1.down.weight", read_xlabs},
      {"comfy", "diffusion_model.middle_block.1.proj_in.lora_up.weight", read_comfy},
      {"bfl", "double_blocks.0.img_attn.qkv.lora_A.weight", read_bfl},
      {"omi", "unet.middle_block.1.proj_in.lora_down.weight", read_omi},
      {"control-lora", "middle_block.1.proj_in.down", read_control_lora},
      {"diffusers", "unet.mid_block.attentions.0.proj_in.lora_A.weight", read_diffusers},
      {"diffusers-2023", "unet.mid_block.attentions.0.proj_in.lora.down.weight", read_diffusers_layers},
      {"diffusers-attn-procs", "mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.down.weight",
       read_attention_processors},
      {"bare", "mid_block.attentions.0.proj_in.lora_A.weight", read_bare},
  };
  return all;
}

}  // namespace lora
