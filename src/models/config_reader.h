#pragma once
// Reads a diffusers config.json field by field. What is asked for is what is known: a field left over at the end is an
// error, for a network that ignored it would be another network.
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "nn/elementwise.h"

namespace lora {

class ConfigReader {
 public:
  // `label` names the model's origin in messages. Throws Error{bad_file} where the text is not a JSON object.
  ConfigReader(const std::string& text, std::string label);

  // A field, or the fallback where the config does not have it. Throws Error{bad_file} for a value of another type, and
  // for integers below `least` or beyond any size that a network has.
  bool flag(const std::string& name, bool fallback);
  int64_t integer(const std::string& name, int64_t fallback, int64_t least = 1);
  double number(const std::string& name, double fallback);
  std::string word(const std::string& name, const std::string& fallback);
  std::vector<int64_t> integers(const std::string& name, std::vector<int64_t> fallback);
  std::vector<std::string> words(const std::string& name, std::vector<std::string> fallback);
  // The same where null means "none".
  std::optional<int64_t> maybe_integer(const std::string& name);
  std::optional<double> maybe_number(const std::string& name);
  std::optional<Activation> maybe_activation(const std::string& name);
  Activation activation(const std::string& name);  // silu by default

  // One value for all of n blocks or a list of n.
  std::vector<int64_t> integers_per_block(const std::string& name, int64_t fallback, size_t n);
  std::vector<bool> flags_per_block(const std::string& name, bool fallback, size_t n);

  bool has(const std::string& name) const { return config_.contains(name); }
  // The field as it stands, null where it is absent or null.
  const nlohmann::json& value(const std::string& name);
  // Fields that no part of this network depends on.
  void ignore(const std::vector<std::string>& names);
  // Throws Error{unsupported} unless the field is absent or has one of the values.
  void only(const std::string& name, const std::vector<nlohmann::json>& values);

  // Throws Error{unsupported} naming the fields never asked for, those that start with "_" apart.
  void finish() const;

  // Error{unsupported}: this field cannot have this value.
  [[noreturn]] void refuse(const std::string& name, const std::string& supported) const;
  // Error{bad_file}: this field's value makes no sense.
  [[noreturn]] void reject(const std::string& name, const std::string& wanted) const;

 private:
  nlohmann::json config_;
  std::string label_;
  std::set<std::string> known_;

  std::string shown(const std::string& name) const;
  int64_t to_integer(const std::string& name, const nlohmann::json& value, int64_t least) const;
  const nlohmann::json& list(const std::string& name, size_t n);
};

}  // namespace lora
