#pragma once
// What a file's metadata says of how its layers act: diffusers' `lora_adapter_metadata` and PEFT's adapter_config.json.
#include <map>
#include <optional>

#include "loaders/lora_config.h"

namespace lora {

inline constexpr const char* kAdapterMetadata = "lora_adapter_metadata";
inline constexpr const char* kAdapterConfig = "adapter_config.json";

// The config for one component, or nullopt where the metadata has none for it. Throws Error{bad_file} for text that is
// not what it should be, Error{unsupported} for settings that cannot be followed.
std::optional<LoraConfig> config_for(const std::string& component, const std::map<std::string, std::string>& metadata,
                                     const std::string& label);

// One component's fields, a JSON object, as lora_adapter_metadata has them. Throws Error{usage} for other text.
std::string prefixed_metadata(const std::string& fields, const std::string& component);

// adapter_config.json as lora_adapter_metadata's text for that component.
std::string adapter_config_as_metadata(const std::filesystem::path& file, const std::string& component);

}  // namespace lora
