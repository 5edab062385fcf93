#pragma once
// The fields of PEFT's configs, with their types checked.
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace lora {

// All readers give `otherwise` for a field that is missing. They throw Error{bad_file} with the field's name and value
// for a value of another type. Fields that are null count as missing, but not numbers.
class ConfigFields {
 public:
  // fields: a JSON object, which must live longer.
  explicit ConfigFields(const nlohmann::json& fields) : fields_(fields) {}

  // nullptr for a field that is missing or null.
  const nlohmann::json* find(const char* name) const;
  std::optional<double> number(const char* name) const;
  double number(const char* name, double otherwise) const { return number(name).value_or(otherwise); }
  int64_t integer(const char* name, int64_t otherwise) const;
  bool flag(const char* name, bool otherwise) const;
  std::string text(const char* name, const char* otherwise) const;
  std::vector<std::string> texts(const char* name) const;
  // An object of numbers, such as rank_pattern; in the order of its keys.
  std::vector<std::pair<std::string, double>> numbers(const char* name) const;

 private:
  const nlohmann::json& fields_;
};

}  // namespace lora
