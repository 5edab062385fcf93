#pragma once
// Names of samplers for command lines, and the names that other programs have for them.
#include <string>
#include <string_view>
#include <vector>

#include "schedulers/config.h"

namespace lora {

// A short name, its class, and the config fields that it sets.
struct ShortName {
  std::string name, class_name;
  Json fields = Json::object();
};

const std::vector<ShortName>& short_names();
// `name` is a short name, or that of A1111, ComfyUI or kohya's scripts, in any case. nullptr for another name.
const ShortName* find_short_name(std::string_view name);

}  // namespace lora
