#pragma once
// What a converted file says about itself.
#include <map>
#include <string>
#include <vector>

#include "lora/lora_file.h"

namespace lora {

// By component, the fields of a LoraConfig that says how these layers act, a JSON object; beside them what the source's
// own config says. `layers` as as_peft() gives them.
std::map<std::string, std::string> adapter_fields_of(const std::vector<LoraLayer>& layers, const LoraFile& source);

// The source's, with lora_adapter_metadata where some layer's alpha is not its rank.
std::map<std::string, std::string> diffusers_metadata(const LoraFile& source, const std::vector<LoraLayer>& layers,
                                                      const std::map<std::string, std::string>& fields);

// The source's, with what kohya's readers look for where it is missing.
std::map<std::string, std::string> kohya_metadata(const LoraFile& file);

}  // namespace lora
