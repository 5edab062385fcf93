#pragma once
// Which base model a LoRA is for, from its names and sizes.
#include <string>

#include "lora/state_dict.h"

namespace lora {

struct Architecture {
  // "SD 1.x", "SD 2.x", "SDXL", "SDXL refiner", "SD 3", "Flux", "aMUSEd", or "" where nothing says it
  std::string name;
  int64_t cross_attention = 0;  // what the UNet's attn2.to_k takes, where the file has one
};

// `file` as it is, in any dialect. Its names and sizes; where they do not tell, what its metadata says.
Architecture architecture_of(const StateDict& file);

// The base model whose UNet takes such a text embedding; "" for none that is known.
std::string unet_family(int64_t cross_attention);

// The component that such a model's denoiser is: "transformer" or "unet".
std::string denoiser_of(const std::string& family);

}  // namespace lora
