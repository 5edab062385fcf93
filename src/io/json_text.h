#pragma once
// JSON of values from outside as text.
#include <nlohmann/json.hpp>
#include <string>

#include "lora/text.h"

namespace lora {

// The value with valid_utf8() of all texts and names in it. Of names that are then equal, the last one stays.
template <class Json>
Json with_valid_utf8(const Json& value) {
  if (value.is_string()) return valid_utf8(value.template get_ref<const std::string&>());
  if (!value.is_structured()) return value;
  Json copy = value.is_array() ? Json::array() : Json::object();
  for (const auto& [name, item] : value.items())
    if (value.is_array())
      copy.push_back(with_valid_utf8(item));
    else
      copy[valid_utf8(name)] = with_valid_utf8(item);
  return copy;
}

// JSON text that every program can read, whatever bytes the texts of the value have.
template <class Json>
std::string json_text(const Json& value) {
  return with_valid_utf8(value).dump(2);
}

}  // namespace lora
