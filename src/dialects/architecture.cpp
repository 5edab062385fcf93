#include "dialects/architecture.h"

namespace lora {

namespace {

bool has(const std::string& key, const char* part) { return key.find(part) != std::string::npos; }

// "…attn2.to_k" in any spelling, and the factor that takes the layer's input.
bool reads_text_embeddings(const std::string& key) {
  bool layer = has(key, "attn2.to_k") || has(key, "attn2_to_k") || has(key, "attn2.processor.to_k");
  bool takes_input = has(key, "lora_A") || has(key, "lora_down") || key.ends_with(".down") || has(key, ".down.") ||
                     has(key, "hada_w1_b");
  return layer && takes_input;
}

// What names alone tell of a transformer.
std::string transformer_family(const StateDict& file) {
  bool sd3 = false, flux = false, amused = false;
  for (const auto& [key, tensor] : file) {
    flux |= has(key, "double_blocks") || has(key, "single_blocks") || has(key, "single_transformer_blocks") ||
            has(key, "guidance_in");
    sd3 |= has(key, "joint_blocks") || has(key, "add_k_proj");
    amused |= has(key, "transformer_layers") || has(key, "kv_mapper");
    // A block's own attention has no number in transformers.
    if (has(key, "transformer_blocks") && (has(key, ".attn.") || has(key, "_attn_")) && tensor.dim() >= 2) {
      constexpr int64_t kFluxWidth = 3072;
      bool takes_input = has(key, "lora_A") || has(key, "lora_down");
      (takes_input && tensor.size(1) == kFluxWidth ? flux : sd3) = true;
    }
  }
  return amused ? "aMUSEd" : flux ? "Flux" : sd3 ? "SD 3" : "";
}

// Among UNets the depth of the transformers and the second text encoder are SDXL's alone.
bool is_deep_unet(const StateDict& file) {
  bool unet = false, deep = false;
  for (const auto& [key, tensor] : file) {
    for (const char* part : {"down_blocks", "mid_block", "up_blocks", "input_blocks", "middle_block", "output_blocks"})
      unet |= has(key, part);
    for (const char* part : {"lora_te2_", "text_encoder_2.", "clip_g.", "transformer_blocks_2_",
                             "transformer_blocks.2.", "add_embedding", "label_emb"})
      deep |= has(key, part);
  }
  return unet && deep;
}

std::string told_by_metadata(const StateDict& file) {
  auto value = [&](const char* key) {
    auto it = file.metadata.find(key);
    return it == file.metadata.end() ? std::string() : it->second;
  };
  auto version = value("ss_base_model_version"), spec = value("modelspec.architecture");
  if (version.starts_with("sdxl_") || spec.starts_with("stable-diffusion-xl-v1-base")) return "SDXL";
  if (spec.starts_with("stable-diffusion-xl-v1-refiner")) return "SDXL refiner";
  if (version.starts_with("sd3") || spec.starts_with("stable-diffusion-3")) return "SD 3";
  if (version.starts_with("flux") || spec.starts_with("flux-1")) return "Flux";
  if (version.starts_with("sd_v2") || value("ss_v2") == "True" || spec.starts_with("stable-diffusion-v2"))
    return "SD 2.x";
  return version.starts_with("sd_v1") || spec.starts_with("stable-diffusion-v1") ? "SD 1.x" : "";
}

}  // namespace

std::string unet_family(int64_t cross_attention) {
  switch (cross_attention) {
    case 768: return "SD 1.x";
    case 1024: return "SD 2.x";
    case 1280: return "SDXL refiner";
    case 2048: return "SDXL";
    default: return "";
  }
}

std::string denoiser_of(const std::string& family) {
  return family == "SD 3" || family == "Flux" || family == "aMUSEd" ? "transformer" : "unet";
}

Architecture architecture_of(const StateDict& file) {
  Architecture found{.name = transformer_family(file)};
  if (!found.name.empty()) return found;
  for (const auto& [key, tensor] : file)
    if (tensor.dim() >= 2 && reads_text_embeddings(key)) {
      found.cross_attention = tensor.numel() / tensor.size(0);
      break;
    }
  found.name = unet_family(found.cross_attention);
  if (found.name.empty() && found.cross_attention == 0 && is_deep_unet(file)) found.name = "SDXL";
  if (found.name.empty()) found.name = told_by_metadata(file);
  return found;
}

}  // namespace lora
