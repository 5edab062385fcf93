#include "loaders/metadata.h"

#include <nlohmann/json.hpp>

#include "core/check.h"
#include "io/json_file.h"

namespace lora {

using nlohmann::json;

namespace {

template <class Value>
std::vector<std::pair<std::string, Value>> pattern(const json& fields, const char* name) {
  std::vector<std::pair<std::string, Value>> rows;
  if (!fields.contains(name) || fields[name].is_null()) return rows;
  for (const auto& [path, value] : fields[name].items()) rows.emplace_back(path, value.template get<Value>());
  return rows;
}

LoraConfig parse(const json& fields) {
  LoraConfig config;
  config.r = fields.value("r", int64_t{8});
  config.lora_alpha = fields.value("lora_alpha", 8.0);
  config.use_rslora = fields.value("use_rslora", false);
  config.rank_pattern = pattern<int64_t>(fields, "rank_pattern");
  config.alpha_pattern = pattern<double>(fields, "alpha_pattern");
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
    check(!fields.value("use_dora", false), ErrorKind::unsupported, "{}: {} says use_dora; DoRA files cannot be loaded",
          label, kAdapterMetadata);
    return parse(fields);
  } catch (const json::exception& error) {
    fail(ErrorKind::bad_file, "{}: {} for {} has a field of the wrong type: {}", label, kAdapterMetadata, component,
         error.what());
  }
}

std::string adapter_config_as_metadata(const std::filesystem::path& file, const std::string& component) {
  auto config = read_json(file);
  check(config.is_object(), ErrorKind::bad_file, "{}: not a JSON object", file.string());
  auto type = config.value("peft_type", "LORA");
  check(type == "LORA", ErrorKind::unsupported, "{}: peft_type is {}; LORA is what can be loaded", file.string(), type);
  json fields = json::object();
  for (const auto& [key, value] : config.items()) fields[component + "." + key] = value;
  return fields.dump();
}

}  // namespace lora
