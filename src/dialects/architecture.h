#pragma once
// Which base model a LoRA is for, from its names and sizes.
#include <string>

#include "lora/state_dict.h"

namespace lora {

struct Architecture {
  std::string name;             // "SD 1.x", "SD 2.x", "SDXL", "SD 3", "Flux", "aMUSEd", or "" where nothing says it
  int64_t cross_attention = 0;  // what the UNet's attn2.to_k takes, where the file has one
};

// `file` as it is, in any dialect.
Architecture architecture_of(const StateDict& file);

// The base model whose UNet takes such a text embedding; "" for none that is known.
std::string unet_family(int64_t cross_attention);

}  // namespace lora
