#pragma once
// What a picture says of how it was drawn.
#include <nlohmann/json.hpp>
#include <string>

#include "lora/image.h"

namespace lora {

inline nlohmann::json said(const Image& image) { return nlohmann::json::parse(image.text.at("lora.cpp")); }

// The value of an option of `generate`, as a text.
inline std::string said(const Image& image, const std::string& option) {
  const auto value = said(image).at("options").at(option);
  return value.is_string() ? value.get<std::string>() : value.dump();
}

// "FILE:WEIGHT, FILE:WEIGHT".
inline std::string said_loras(const Image& image) {
  const auto loras = said(image).at("loras");
  std::string all;
  for (const auto& lora : loras)
    all += (all.empty() ? "" : ", ") + lora.at("file").get<std::string>() + ":" + lora.at("weight").dump();
  return all;
}

}  // namespace lora
