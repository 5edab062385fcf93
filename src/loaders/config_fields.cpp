#include "loaders/config_fields.h"

#include "core/check.h"
#include "core/utf8.h"

namespace lora {

using nlohmann::json;

namespace {

void check_type(bool right, const std::string& name, const json& value, const char* wanted) {
  constexpr size_t kMost = 60;
  check(right, ErrorKind::bad_file, "{} is {}; {} is wanted", name, std::string(first_characters(value.dump(), kMost)),
        wanted);
}

}  // namespace

const json* ConfigFields::find(const char* name) const {
  auto found = fields_.find(name);
  return found == fields_.end() || found->is_null() ? nullptr : &*found;
}

std::optional<double> ConfigFields::number(const char* name) const {
  auto found = fields_.find(name);
  if (found == fields_.end()) return std::nullopt;
  check_type(found->is_number(), name, *found, "a number");
  return found->get<double>();
}

int64_t ConfigFields::integer(const char* name, int64_t otherwise) const {
  auto found = fields_.find(name);
  if (found == fields_.end()) return otherwise;
  check_type(found->is_number_integer(), name, *found, "a whole number");
  return found->get<int64_t>();
}

bool ConfigFields::flag(const char* name, bool otherwise) const {
  auto* value = find(name);
  if (!value) return otherwise;
  check_type(value->is_boolean(), name, *value, "true or false");
  return value->get<bool>();
}

std::string ConfigFields::text(const char* name, const char* otherwise) const {
  auto* value = find(name);
  if (!value) return otherwise;
  check_type(value->is_string(), name, *value, "a text");
  return value->get<std::string>();
}

std::vector<std::string> ConfigFields::texts(const char* name) const {
  std::vector<std::string> all;
  auto* list = find(name);
  if (!list) return all;
  check_type(list->is_array(), name, *list, "a list of texts");
  for (const auto& value : *list) {
    check_type(value.is_string(), std::string("a part of ") + name, value, "a text");
    all.push_back(value.get<std::string>());
  }
  return all;
}

std::vector<std::pair<std::string, double>> ConfigFields::numbers(const char* name) const {
  std::vector<std::pair<std::string, double>> all;
  auto* object = find(name);
  if (!object) return all;
  check_type(object->is_object(), name, *object, "an object of numbers");
  for (const auto& [key, value] : object->items()) {
    check_type(value.is_number(), fmt::format("{} of {}", name, key), value, "a number");
    all.emplace_back(key, value.get<double>());
  }
  return all;
}

}  // namespace lora
