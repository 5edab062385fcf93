#include "loaders/metadata.h"

#include <nlohmann/json.hpp>

#include "core/check.h"
#include "io/json_file.h"
#include "loaders/config_fields.h"

namespace lora {

using nlohmann::json;

namespace {

constexpr const char* kLora = "LORA";

void check_peft_type(const std::string& type) {
  for (const char* known : {kLora, "LOHA", "LOKR", "OFT", "IA3"})
    if (type == known) return;
  fail(ErrorKind::unsupported, "peft_type is {}; LORA, LOHA, LOKR, OFT and IA3 can be loaded", type);
}

// Whether a field says more than null or false.
bool is_set(const ConfigFields& fields, const char* name) {
  auto* value = fields.find(name);
  return value && *value != false;
}

// LoRA that its factors do not tell whole.
void check_variant(const ConfigFields& fields) {
  for (const char* name : {"alora_invocation_tokens", "arrow_config", "kasa_config", "use_bdlora", "use_qalora"})
    check(!is_set(fields, name), ErrorKind::unsupported, "{} is set; LoRA of this variant cannot be loaded", name);
  auto* start = fields.find("init_lora_weights");
  if (!start || !start->is_string()) return;
  for (const char* name : {"pissa", "corda", "olora", "loftq", "lora_ga"})
    check(
        !start->get<std::string>().starts_with(name), ErrorKind::unsupported,
        "init_lora_weights is {}. Training with it changed the base model's weights, and the adapter does not say how; "
        "save it with PEFT's path_initial_model_for_weight_conversion",
        start->get<std::string>());
}

LoraConfig parse(const json& given) {
  const ConfigFields fields(given);
  LoraConfig config;
  config.peft_type = fields.text("peft_type", kLora);
  check_peft_type(config.peft_type);
  bool lora = config.peft_type == kLora;
  if (lora) check_variant(fields);
  config.lora_alpha = fields.number(lora ? "lora_alpha" : "alpha", 8);
  config.use_rslora = lora && fields.flag("use_rslora", false);
  config.r = fields.number("r");
  config.alpha_pattern = fields.numbers("alpha_pattern");
  config.rank_pattern = fields.numbers("rank_pattern");
  if (auto* modules = fields.find("feedforward_modules"); modules && modules->is_string())
    config.feedforward_pattern = modules->get<std::string>();
  else
    config.feedforward_modules = fields.texts("feedforward_modules");
  config.use_cayley_neumann = fields.flag("use_cayley_neumann", true);
  config.num_cayley_neumann_terms = fields.integer("num_cayley_neumann_terms", 5);
  check(config.num_cayley_neumann_terms > 0, ErrorKind::bad_file,
        "num_cayley_neumann_terms is {}; at least 1 is wanted", config.num_cayley_neumann_terms);
  if (fields.flag("coft", false)) {
    config.coft_eps = fields.number("eps", 6e-5);
    check(config.coft_eps > 0, ErrorKind::bad_file, "eps is {}; a number above 0 is wanted", config.coft_eps);
  }
  return config;
}

}  // namespace

std::string adapter_fields_for(const std::string& component, const std::map<std::string, std::string>& metadata) {
  auto entry = metadata.find(kAdapterMetadata);
  if (entry == metadata.end()) return "";
  auto all = json::parse(entry->second, nullptr, /*allow_exceptions=*/false);
  check(all.is_object(), ErrorKind::bad_file, "the metadata entry {} is not a JSON object", kAdapterMetadata);
  json own = json::object(), of_all = json::object();
  for (const auto& [key, value] : all.items()) {
    if (key.starts_with(component + ".")) own[key.substr(component.size() + 1)] = value;
    if (key.find('.') == key.npos) of_all[key] = value;
  }
  const auto& fields = own.empty() ? of_all : own;
  return fields.empty() ? "" : fields.dump();
}

std::optional<LoraConfig> config_for(const std::string& component, const std::map<std::string, std::string>& metadata,
                                     const std::string& name) {
  auto fields = adapter_fields_for(component, metadata);
  if (fields.empty()) return std::nullopt;
  try {
    auto config = parse(json::parse(fields));
    config.name = name;
    return config;
  } catch (const Error& error) {
    fail(error.kind(), "{} for {}: {}", name, component, error.what());
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
  try {
    check_peft_type(ConfigFields(config).text("peft_type", kLora));
  } catch (const Error& error) {
    fail(error.kind(), "{}: {}", file.string(), error.what());
  }
  return prefixed_metadata(config.dump(), component);
}

}  // namespace lora
