#include "loaders/metadata.h"

#include <nlohmann/json.hpp>

#include "core/check.h"
#include "io/json_file.h"

namespace lora {

using nlohmann::json;

namespace {

void check_peft_type(const std::string& type) {
  for (const char* known : {"LORA", "LOHA", "LOKR", "OFT", "IA3"})
    if (type == known) return;
  fail(ErrorKind::unsupported, "peft_type is {}; LORA, LOHA, LOKR, OFT and IA3 can be loaded", type);
}

bool is_set(const json& fields, const char* name) {
  auto found = fields.find(name);
  return found != fields.end() && !found->is_null() && *found != false;
}

// LoRA that its factors do not tell whole.
void check_variant(const json& fields) {
  for (const char* name : {"alora_invocation_tokens", "arrow_config", "kasa_config", "use_bdlora", "use_qalora"})
    check(!is_set(fields, name), ErrorKind::unsupported, "{} is set; LoRA of this variant cannot be loaded", name);
  auto start = fields.find("init_lora_weights");
  if (start == fields.end() || !start->is_string()) return;
  for (const char* name : {"pissa", "corda", "olora", "loftq", "lora_ga"})
    check(
        !start->get<std::string>().starts_with(name), ErrorKind::unsupported,
        "init_lora_weights is {}. Training with it changed the base model's weights, and the adapter does not say how; "
        "save it with PEFT's path_initial_model_for_weight_conversion",
        start->get<std::string>());
}

using Patterns = std::vector<std::pair<std::string, double>>;

Patterns patterns(const json& fields, const char* name) {
  Patterns all;
  auto found = fields.find(name);
  if (found == fields.end() || found->is_null()) return all;
  check(found->is_object(), ErrorKind::bad_file, "{} is {}; an object is wanted", name, found->dump());
  for (const auto& [path, value] : found->items()) all.emplace_back(path, value.get<double>());
  return all;
}

LoraConfig parse(const json& fields) {
  LoraConfig config;
  auto type = fields.find("peft_type");
  if (type != fields.end() && !type->is_null()) config.peft_type = type->get<std::string>();
  check_peft_type(config.peft_type);
  bool lora = config.peft_type == "LORA";
  if (lora) check_variant(fields);
  config.lora_alpha = fields.value(lora ? "lora_alpha" : "alpha", 8.0);
  config.use_rslora = lora && fields.value("use_rslora", false);
  if (auto r = fields.find("r"); r != fields.end()) config.r = r->get<double>();
  config.alpha_pattern = patterns(fields, "alpha_pattern");
  config.rank_pattern = patterns(fields, "rank_pattern");
  if (auto modules = fields.find("feedforward_modules"); modules != fields.end() && modules->is_array())
    config.feedforward_modules = modules->get<std::vector<std::string>>();
  else if (modules != fields.end() && modules->is_string())
    config.feedforward_pattern = modules->get<std::string>();
  config.use_cayley_neumann = fields.value("use_cayley_neumann", true);
  config.num_cayley_neumann_terms = fields.value("num_cayley_neumann_terms", int64_t(5));
  check(config.num_cayley_neumann_terms > 0, ErrorKind::bad_file,
        "num_cayley_neumann_terms is {}; at least 1 is wanted", config.num_cayley_neumann_terms);
  if (fields.value("coft", false)) {
    config.coft_eps = fields.value("eps", 6e-5);
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
  } catch (const json::exception& error) {
    fail(ErrorKind::bad_file, "{} for {} has a field of the wrong type: {}", name, component, error.what());
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
    check_peft_type(config.value("peft_type", "LORA"));
  } catch (const Error& error) {
    fail(error.kind(), "{}: {}", file.string(), error.what());
  }
  return prefixed_metadata(config.dump(), component);
}

}  // namespace lora
