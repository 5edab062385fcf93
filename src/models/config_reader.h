#pragma once
// Reads a diffusers config.json field by field. A field that nobody has read at the end is an error, because it may
// change the network.
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "nn/elementwise.h"

namespace lora {

class ConfigReader {
 public:
  // `label` is the origin of the model in error messages. Throws Error{bad_file} if the text is not a JSON object.
  ConfigReader(const std::string& text, std::string label);

  // These return a field, or the fallback if the config does not have the field. They throw Error{bad_file} for a value
  // of another type, and for integers that are below `least` or larger than any network.
  bool flag(const std::string& name, bool fallback);
  int64_t integer(const std::string& name, int64_t fallback, int64_t least = 1);
  double number(const std::string& name, double fallback);
  std::string word(const std::string& name, const std::string& fallback);
  std::vector<int64_t> integers(const std::string& name, std::vector<int64_t> fallback);
  std::vector<std::string> words(const std::string& name, std::vector<std::string> fallback);
  // The same for fields that may be null. They return nullopt if the field is absent or null.
  std::optional<int64_t> maybe_integer(const std::string& name);
  std::optional<double> maybe_number(const std::string& name);
  std::optional<Activation> maybe_activation(const std::string& name);
  Activation activation(const std::string& name);  // silu by default

  // The field is one value for all n blocks, or a list of n values.
  std::vector<int64_t> integers_per_block(const std::string& name, int64_t fallback, size_t n);
  std::vector<bool> flags_per_block(const std::string& name, bool fallback, size_t n);

  bool has(const std::string& name) const { return config_.contains(name); }
  // The field without any check; null if it is absent.
  const nlohmann::json& value(const std::string& name);
  // Accepts these fields with any value, because the network does not depend on them.
  void ignore(const std::vector<std::string>& names);
  // Throws Error{unsupported} unless the field is absent or has one of the values.
  void only(const std::string& name, const std::vector<nlohmann::json>& values);

  // Throws Error{unsupported} that names a field that was not read. Fields that start with "_" are accepted.
  void finish() const;

  // Throws Error{unsupported}: the value of the field is not supported.
  [[noreturn]] void refuse(const std::string& name, const std::string& supported) const;
  // Throws Error{bad_file}: the value of the field is not valid.
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
