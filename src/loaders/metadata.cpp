#include "loaders/metadata.h"

#include <nlohmann/json.hpp>

#include "core/check.h"
#include "io/json_file.h"

namespace lora {

using nlohmann::json;

namespace {

LoraConfig parse(const json& fields) {
  LoraConfig config;
  config.lora_alpha = fields.value("lora_alpha", 8.0);
  config.use_rslora = fields.value("use_rslora", false);
  if (auto patterns = fields.find("alpha_pattern"); patterns != fields.end() && !patterns->is_null())
    for (const auto& [path, alpha] : patterns->items()) config.alpha_pattern.emplace_back(path, alpha.get<double>());
  return config;
}

}  // namespace

std::optional<LoraConfig> config_for(const std::string& component, const std::map<std::string, std::string>& metadata,
                                     const std::string& label) {
  auto entry = metadata.find(kAdapterMetadata);
  if (entry == metadata.end()) return std::nullopt;
  auto all = json::parse(entry->second, nullptr, /*allow_exceptions=*/false);
  check(all.is_object(), ErrorKind::bad_file, "{}: the metadata entry {} is not a JSON object", label,
        kAdapterMetadata);
  json fields = json::object();
  for (const auto& [key, value] : all.items())
    if (key.starts_with(component + ".")) fields[key.substr(component.size() + 1)] = value;
  if (fields.empty()) return std::nullopt;
  try {
    return parse(fields);
  } catch (const json::exception& error) {
    fail(ErrorKind::bad_file, "{}: {} for {} has a field of the wrong type: {}", label, kAdapterMetadata, component,
         error.what());
  }
}

std::string prefixed_metadata(const std::string& text, const std::string& component) {
  auto fields = json::parse(text, nullptr, /*allow_exceptions=*/false);
  check(fields.is_object(), ErrorKind::usage, "the adapter metadata of {} is not a JSON object", component);
  json prefixed = json::object();
  for (const auto& [key, value] : fields.items()) prefixed[component + "." + key] = value;
  return prefixed.dump();
}

std::string adapter_config_as_metadata(const std::filesystem::path& file, const std::string& component) {
  auto config = read_json(file);
  check(config.is_object(), ErrorKind::bad_file, "{}: not a JSON object", file.string());
  auto type = config.value("peft_type", "LORA");
  check(type == "LORA", ErrorKind::unsupported, "{}: peft_type is {}; LORA is what can be loaded", file.string(), type);
  return prefixed_metadata(config.dump(), component);
}

}  // namespace lora
