#include "dialects/architecture.h"

namespace lora {

namespace {

// "…attn2.to_k" in any spelling, and the factor that takes the layer's input.
bool reads_text_embeddings(const std::string& key) {
  auto has = [&](const char* part) { return key.find(part) != std::string::npos; };
  bool layer = has("attn2.to_k") || has("attn2_to_k") || has("attn2.processor.to_k");
  return layer && (has("lora_A") || has("lora_down") || has(".down."));
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

Architecture architecture_of(const StateDict& file) {
  Architecture found;
  auto has = [](const std::string& key, const char* part) { return key.find(part) != std::string::npos; };
  for (const auto& [key, tensor] : file) {
    if (tensor.dim() >= 2 && reads_text_embeddings(key)) found.cross_attention = tensor.size(1);
    if (has(key, "joint_blocks") || has(key, "add_k_proj")) found.name = "SD 3";
    if (has(key, "double_blocks") || has(key, "single_transformer_blocks")) found.name = "Flux";
    if (has(key, "transformer_layers")) found.name = "aMUSEd";
  }
  if (found.name.empty()) found.name = unet_family(found.cross_attention);
  return found;
}

}  // namespace lora
