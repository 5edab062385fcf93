#pragma once
// A scheduler's config: the fields of its class, with the reference's defaults. The constructor checks all values.
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lora {

using Json = nlohmann::json;

struct SchedulerField {
  std::string name;
  Json fallback;                         // the reference's default; if it is null, the field may be null
  Json::value_t type = fallback.type();  // given explicitly if the default is null
  std::vector<Json> supported{};         // empty: any value of the type
  double least = -std::numeric_limits<double>::infinity(), most = std::numeric_limits<double>::infinity();
  std::vector<std::pair<std::string, std::string>> synonyms{};  // {a, b}: the reference reads the value a as b
};

using SchedulerFields = std::vector<SchedulerField>;

// All groups in one list, in order.
SchedulerFields concat(std::initializer_list<SchedulerFields> groups);

class SchedulerConfig {
 public:
  // `given` is the config of this class or of another class. Fields that only other schedulers know, and fields that
  // start with '_', are kept but not read. Throws Error{bad_file} for a value of the wrong type. Throws
  // Error{unsupported} for an unknown field and for a value that is not supported.
  SchedulerConfig(std::string class_name, const SchedulerFields& fields, const Json& given);

  const std::string& class_name() const { return class_name_; }
  bool flag(const std::string& name) const;  // null is false, as in Python
  int64_t integer(const std::string& name) const;
  double number(const std::string& name) const;
  std::optional<double> maybe_number(const std::string& name) const;  // nullopt if null or absent
  std::string text(const std::string& name) const;
  std::vector<float> numbers(const std::string& name) const;  // empty if null

  // JSON text that reads back to the same config. Infinities are written as Python's json module writes them.
  std::string dump() const;

 private:
  std::string class_name_;
  Json values_;
};

// Parses a JSON object. Python's Infinity, -Infinity and NaN are accepted as numbers. As in the reference, fields that
// `_use_default_values` lists are removed, so that another class uses its own defaults for them. Throws
// Error{bad_file}.
Json parse_scheduler_config(std::string_view text);

}  // namespace lora
