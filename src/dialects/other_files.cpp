#include "dialects/other_files.h"

#include <fmt/format.h>

#include <string_view>

namespace lora {

namespace {

// Parts of keys that say what a file is, where it is no LoRA that can be read here.
struct Sign {
  std::string_view part, what;
};

constexpr Sign kOtherFiles[] = {
    {"lllite_unet_", "a ControlNet-LLLite file"},
    {"lora_controlnet", "a Control-LoRA"},
    {"_ip.weight", "an IP-Adapter"},
    {"custom_diffusion", "a custom diffusion file"},
    {"string_to_param", "a textual inversion embedding"},
    {"emb_params", "a textual inversion embedding"},
    {"clip_g", "a textual inversion embedding"},
    {"bundle_emb.", "a textual inversion embedding"},
    {"image_proj.", "an IP-Adapter"},
    {"model.diffusion_model.", "a whole checkpoint"},
    {"first_stage_model.", "a whole checkpoint"},
    {"time_embedding.linear_1.", "a UNet's own weights"},
    {"text_model.encoder.", "a text encoder's own weights"},
    {"decoder.conv_in.", "a VAE's own weights"},
    {"clip_l", "a textual inversion embedding"},
    {"clip_g", "a textual inversion embedding"},
};

}  // namespace

std::string looks_like(const StateDict& file) {
  for (auto [part, what] : kOtherFiles)
    for (const auto& [key, tensor] : file)
      if (key.find(part) != std::string::npos) return fmt::format("it looks like {} (it has \"{}\")", what, key);
  return file.empty() ? "it holds no tensors" : fmt::format("its first key is \"{}\"", file.begin()->first);
}

}  // namespace lora
