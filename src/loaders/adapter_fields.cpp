#include "loaders/adapter_fields.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/text.h"
#include "kinds/kinds.h"

namespace lora {

using nlohmann::json;

namespace {

// PEFT writes lora_alpha as it was given; whole numbers are what its readers know.
json number_as_given(double x) { return x == double(int64_t(x)) ? json(int64_t(x)) : json(x); }

}  // namespace

bool is_plain_lora(const LoraLayer& layer) {
  return std::all_of(layer.tensors.begin(), layer.tensors.end(), [](auto& entry) {
    auto* row = name_row(entry.first);
    return row && row->in_lora_files;
  });
}

double alpha_of(const LoraLayer& layer) {
  auto rank = rank_of(layer.tensors);
  return layer.alpha && !layer.scale ? *layer.alpha : strength_of(layer, rank).scale * double(rank);
}

std::string adapter_fields(const std::string& component, const std::vector<LoraLayer>& layers) {
  // transformers' text encoder does not have the level text_model any more; diffusers drops it from tensors' names
  // alone. A pattern without an anchor fits both.
  bool text = component.starts_with("text_encoder");
  auto module = [&](const std::string& path) { return text ? replace_all(path, "text_model.", "") : path; };
  auto pattern = [&](const std::string& path) { return (text ? "" : "^") + module(path); };

  json fields{{"peft_type", "LORA"}, {"use_dora", false}, {"lora_bias", false}};
  std::map<std::string, std::pair<int64_t, double>> by_path;  // rank and alpha
  for (const auto& layer : layers) {
    by_path[layer.path] = {rank_of(layer.tensors), alpha_of(layer)};
    for (const auto& [suffix, tensor] : layer.tensors)
      if (auto flag = name_row(suffix)->peft_flag; !flag.empty()) fields[std::string(flag)] = true;
  }
  auto [r, alpha] = by_path.begin()->second;
  json rank_pattern = json::object(), alpha_pattern = json::object(), targets = json::array();
  for (const auto& [path, own] : by_path) {
    targets.push_back(module(path));
    if (own.first != r) rank_pattern[pattern(path)] = own.first;
    if (own.second != alpha) alpha_pattern[pattern(path)] = number_as_given(own.second);
  }
  fields.update({{"r", r},
                 {"lora_alpha", number_as_given(alpha)},
                 {"rank_pattern", rank_pattern},
                 {"alpha_pattern", alpha_pattern},
                 {"target_modules", targets}});
  return fields.dump();
}

}  // namespace lora
