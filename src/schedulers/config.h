#pragma once
// A scheduler's config: the fields of its class with the reference's defaults, checked once and then read by type.
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace lora {

using Json = nlohmann::json;

struct SchedulerField {
  std::string name;
  Json fallback;                         // the reference's default; null: the field may be null
  Json::value_t type = fallback.type();  // given by hand where the default is null
  std::vector<Json> supported{};         // empty: any value of the type
  double least = -std::numeric_limits<double>::infinity(), most = std::numeric_limits<double>::infinity();
  std::vector<std::pair<std::string, std::string>> synonyms{};  // values that the reference reads as another one
};

using SchedulerFields = std::vector<SchedulerField>;

// The groups one after the other.
SchedulerFields concat(std::initializer_list<SchedulerFields> groups);

class SchedulerConfig {
 public:
  // `given` is a config of this class or another. Fields that only other schedulers know, and those that start with
  // '_', are kept but not read. Throws Error{bad_file} for a value of the wrong type, Error{unsupported} for an unknown
  // field or a value that is not supported.
  SchedulerConfig(std::string class_name, const SchedulerFields& fields, const Json& given);

  const std::string& class_name() const { return class_name_; }
  bool flag(const std::string& name) const;  // null is false, as in Python
  int64_t integer(const std::string& name) const;
  double number(const std::string& name) const;
  std::optional<double> maybe_number(const std::string& name) const;  // nullopt where null or absent
  std::string text(const std::string& name) const;
  std::vector<float> numbers(const std::string& name) const;  // empty where null

  // JSON text that reads back to the same config; infinities are written as Python's json does.
  std::string dump() const;

 private:
  std::string class_name_;
  Json values_;
};

// A JSON object, where Python's Infinity, -Infinity and NaN are accepted as numbers. Fields that its
// `_use_default_values` lists are dropped, as in the reference: another class then takes its own default, not that of
// the class that wrote them. Throws Error{bad_file}.
Json parse_scheduler_config(const std::string& text);

}  // namespace lora
