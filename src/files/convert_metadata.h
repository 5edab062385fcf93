#pragma once
// What a converted file says about itself.
#include <map>
#include <string>
#include <vector>

#include "lora/lora_file.h"

namespace lora {

// The source's, without what is about its form or bytes, and with the base model that its layers tell. `notes` gets
// what was corrected.
std::map<std::string, std::string> kept_metadata(const LoraFile& source, std::vector<std::string>& notes);

// By component, the fields of a LoraConfig that says how these layers act, a JSON object; beside them what the source's
// own config says. `layers` as as_peft() gives them.
std::map<std::string, std::string> adapter_fields_of(const std::vector<LoraLayer>& layers, const LoraFile& source);

// What is kept of the source's, with lora_adapter_metadata where some layer's alpha is not its rank.
std::map<std::string, std::string> diffusers_metadata(std::map<std::string, std::string> kept, const LoraFile& source,
                                                      const std::vector<LoraLayer>& layers,
                                                      const std::map<std::string, std::string>& fields);

// What is kept of the source's, with what kohya's readers look for where it is missing.
std::map<std::string, std::string> kohya_metadata(std::map<std::string, std::string> kept, const LoraFile& file);

}  // namespace lora
