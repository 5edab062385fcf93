#pragma once
// Which base model a LoRA is for.
#include <map>
#include <string>
#include <vector>

#include "lora/lora_file.h"

namespace lora {

// What is known of one layer of a file or of a model.
struct LayerTrace {
  std::string component, path;    // in diffusers' names or native ones
  int64_t rows = 0, columns = 0;  // columns: inputs times the kernel; 0 where they are not known
};

struct ToldModel {
  BaseModel model = BaseModel::unknown;
  int64_t cross_attention = 0;  // the width of the text embeddings that a UNet takes; 0 where nothing says it
  std::string known_by;         // what tells it; for unknown, which models it may be; "" where nothing does
};

using LoraMetadata = std::map<std::string, std::string>;

// By the layers' names, sizes and counts, for each model and against it; where they do not tell one, by the metadata
// among those that they leave. `given` is what the caller says; a file that contradicts it throws Error{usage}.
ToldModel base_model_of(const std::vector<LayerTrace>& layers, const LoraMetadata& metadata,
                        BaseModel given = BaseModel::unknown);

// What the metadata says alone, and the entry that says it.
struct SaidModel {
  BaseModel model = BaseModel::unknown;
  std::string key, value;
};
SaidModel model_said_by(const LoraMetadata& metadata);
// Whether that is another model than the file's. The name of a family is not: "flux_2" in a file for FLUX.2 klein.
bool names_another(const SaidModel& said, BaseModel model);
// The model that one entry's value names; unknown for none.
BaseModel model_named_by(const std::string& value);

// Whether a path is of a UNet, in diffusers' names or native ones.
bool is_unet_path(std::string_view path);

}  // namespace lora
