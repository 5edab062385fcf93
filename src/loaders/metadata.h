#pragma once
// What a file's metadata says of how its layers act: diffusers' `lora_adapter_metadata` and PEFT's adapter_config.json.
#include <map>
#include <optional>

#include "loaders/lora_config.h"

namespace lora {

inline constexpr const char* kAdapterMetadata = "lora_adapter_metadata";
inline constexpr const char* kAdapterConfig = "adapter_config.json";

// One component's fields of the metadata, a JSON object as text; "" for none. The file of a pipeline has the
// component's name before each field. The file of one model, as diffusers' save_lora_adapter() writes it, has no names:
// its fields are those of every component. Throws Error{bad_file} for text that is no JSON object.
std::string adapter_fields_for(const std::string& component, const std::map<std::string, std::string>& metadata);

// The config for one component, or nullopt where the metadata has none for it. `name`: where the config stands, for
// messages. Throws Error{bad_file} for text that is not what it should be, Error{unsupported} for settings that cannot
// be followed.
std::optional<LoraConfig> config_for(const std::string& component, const std::map<std::string, std::string>& metadata,
                                     const std::string& name = kAdapterMetadata);

// One component's fields, a JSON object, as lora_adapter_metadata has them. Throws Error{usage} for other text.
std::string prefixed_metadata(const std::string& fields, const std::string& component);

// adapter_config.json as lora_adapter_metadata's text for that component.
std::string adapter_config_as_metadata(const std::filesystem::path& file, const std::string& component);

}  // namespace lora
