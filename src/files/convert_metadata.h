#pragma once
// What a converted file says about itself.
#include <map>
#include <string>
#include <vector>

#include "files/layers.h"

namespace lora {

// By component, the fields of a LoraConfig that says how these layers act, a JSON object; beside them what the source's
// own config says.
std::map<std::string, std::string> adapter_fields_of(const std::vector<NamedModule>& layers,
                                                     const LoraStateDict& source);

// The source's, with lora_adapter_metadata where some layer's alpha is not its rank.
std::map<std::string, std::string> diffusers_metadata(const LoraStateDict& source,
                                                      const std::vector<NamedModule>& layers,
                                                      const std::map<std::string, std::string>& fields);

// The source's, with what kohya's readers look for where it is missing.
std::map<std::string, std::string> kohya_metadata(const LoraLayers& read);

}  // namespace lora
