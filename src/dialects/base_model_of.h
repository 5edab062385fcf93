#pragma once
// Which base model a LoRA is for.
#include <map>
#include <string>
#include <vector>

#include "lora/lora_file.h"

namespace lora {

// What is known of one layer of a file or of a model.
struct LayerTrace {
  std::string_view component, path;  // in diffusers' names or native ones
  int64_t columns = 0;               // inputs times the kernel; 0 where they are not known
};

struct ToldModel {
  BaseModel model = BaseModel::unknown;
  int64_t cross_attention = 0;  // the width of the text embeddings that a UNet takes; 0 where nothing says it
};

// By the layers' names and sizes; where they do not tell, by the metadata.
ToldModel base_model_of(const std::vector<LayerTrace>& layers, const std::map<std::string, std::string>& metadata);

}  // namespace lora
