#include "models/config_reader.h"

#include "core/check.h"
#include "core/text.h"

namespace lora {

using nlohmann::json;

namespace {

constexpr int64_t kLargest = 1 << 24;     // products of two such sizes fit an int64
constexpr int64_t kMostLayers = 1 << 10;  // more than any network has; limits the work for a wrong config
const json kNull;

}  // namespace

ConfigReader::ConfigReader(const std::string& text, std::string label)
    : config_(json::parse(text, nullptr, /*allow_exceptions=*/false)), label_(std::move(label)) {
  check(config_.is_object(), ErrorKind::bad_file, "{}: the config is not a JSON object", label_);
}

const json& ConfigReader::value(const std::string& name) {
  known_.insert(name);
  auto it = config_.find(name);
  return it == config_.end() ? kNull : *it;
}

std::string ConfigReader::shown(const std::string& name) const {
  auto it = config_.find(name);
  auto text = it == config_.end() ? "absent" : it->dump();
  return text.size() <= 80 ? text : text.substr(0, 77) + "...";
}

void ConfigReader::refuse(const std::string& name, const std::string& supported) const {
  fail(ErrorKind::unsupported, "{}: config field \"{}\" is {}; supported: {}", label_, name, shown(name), supported);
}

void ConfigReader::reject(const std::string& name, const std::string& wanted) const {
  fail(ErrorKind::bad_file, "{}: config field \"{}\" is {}; it must be {}", label_, name, shown(name), wanted);
}

// ---- One value ------------------------------------------------------------------------------------------------------

bool ConfigReader::flag(const std::string& name, bool fallback) {
  const auto& v = value(name);
  if (!has(name)) return fallback;
  if (!v.is_boolean()) reject(name, "true or false");
  return v.get<bool>();
}

int64_t ConfigReader::to_integer(const std::string& name, const json& v, int64_t least) const {
  auto most = name.find("layers") != name.npos ? kMostLayers : kLargest;
  if (!v.is_number_integer() || v < least || v > most)
    reject(name, fmt::format("a whole number from {} to {}", least, most));
  return v.get<int64_t>();
}

int64_t ConfigReader::integer(const std::string& name, int64_t fallback, int64_t least) {
  const auto& v = value(name);
  return has(name) ? to_integer(name, v, least) : fallback;
}

std::optional<int64_t> ConfigReader::maybe_integer(const std::string& name) {
  const auto& v = value(name);
  if (v.is_null()) return std::nullopt;
  return to_integer(name, v, 1);
}

double ConfigReader::number(const std::string& name, double fallback) {
  if (!has(name)) {
    known_.insert(name);
    return fallback;
  }
  auto v = maybe_number(name);
  if (!v) reject(name, "a number");
  return *v;
}

std::optional<double> ConfigReader::maybe_number(const std::string& name) {
  const auto& v = value(name);
  if (v.is_null()) return std::nullopt;
  if (!v.is_number()) reject(name, "a number");
  return v.get<double>();
}

std::string ConfigReader::word(const std::string& name, const std::string& fallback) {
  const auto& v = value(name);
  if (!has(name)) return fallback;
  if (!v.is_string()) reject(name, "a text");
  return v.get<std::string>();
}

std::optional<Activation> ConfigReader::maybe_activation(const std::string& name) {
  const auto& v = value(name);
  if (v.is_null()) return std::nullopt;
  auto activation = v.is_string() ? activation_named(v.get<std::string>()) : std::nullopt;
  if (!activation) refuse(name, "\"silu\", \"swish\", \"mish\", \"gelu\", \"relu\"");
  return activation;
}

Activation ConfigReader::activation(const std::string& name) {
  auto activation = maybe_activation(name);
  if (!activation && has(name)) reject(name, "the name of an activation");
  return activation.value_or(Activation::silu);
}

// ---- Lists ----------------------------------------------------------------------------------------------------------

std::vector<int64_t> ConfigReader::integers(const std::string& name, std::vector<int64_t> fallback) {
  const auto& v = value(name);
  if (!has(name)) return fallback;
  if (!v.is_array() || v.empty()) reject(name, "a list of whole numbers");
  std::vector<int64_t> result;
  for (const auto& item : v) result.push_back(to_integer(name, item, 1));
  return result;
}

std::vector<std::string> ConfigReader::words(const std::string& name, std::vector<std::string> fallback) {
  const auto& v = value(name);
  if (!has(name)) return fallback;
  if (!v.is_array() || v.empty()) reject(name, "a list of texts");
  std::vector<std::string> result;
  for (const auto& item : v) {
    if (!item.is_string()) reject(name, "a list of texts");
    result.push_back(item.get<std::string>());
  }
  return result;
}

const json& ConfigReader::list(const std::string& name, size_t n) {
  const auto& v = value(name);
  if (v.size() != n) reject(name, fmt::format("one value, or a list of {} values, one for each block", n));
  return v;
}

std::vector<int64_t> ConfigReader::integers_per_block(const std::string& name, int64_t fallback, size_t n) {
  if (!value(name).is_array()) return std::vector<int64_t>(n, integer(name, fallback));
  std::vector<int64_t> result;
  for (const auto& item : list(name, n)) result.push_back(to_integer(name, item, 1));
  return result;
}

std::vector<bool> ConfigReader::flags_per_block(const std::string& name, bool fallback, size_t n) {
  if (!value(name).is_array()) return std::vector<bool>(n, flag(name, fallback));
  std::vector<bool> result;
  for (const auto& item : list(name, n)) {
    if (!item.is_boolean()) reject(name, "true, false or a list of these");
    result.push_back(item.get<bool>());
  }
  return result;
}

// ---- Fields without effect ------------------------------------------------------------------------------------------

void ConfigReader::ignore(const std::vector<std::string>& names) { known_.insert(names.begin(), names.end()); }

void ConfigReader::only(const std::string& name, const std::vector<json>& values) {
  const auto& v = value(name);
  if (!has(name)) return;
  std::vector<std::string> supported;
  for (const auto& candidate : values) {
    if (v == candidate) return;
    supported.push_back(candidate.dump());
  }
  refuse(name, join(supported, ", "));
}

void ConfigReader::finish() const {
  std::vector<std::string> known(known_.begin(), known_.end());
  for (const auto& [name, v] : config_.items()) {
    if (name.starts_with("_") || known_.contains(name)) continue;
    auto near = nearest(name, known);
    fail(ErrorKind::unsupported, "{}: config field \"{}\" is unknown{}", label_, name,
         near.empty() ? "" : "; did you mean \"" + near + "\"?");
  }
}

}  // namespace lora
