#include "lora/state_dict.h"

#include "core/check.h"
#include "core/text.h"

namespace lora {

StateDict::StateDict(std::initializer_list<Item> items) {
  for (const auto& [name, tensor] : items) set(name, tensor);
}

void StateDict::set(const std::string& name, Tensor tensor) {
  auto [row, added] = index_.try_emplace(name, items_.size());
  if (added)
    items_.emplace_back(name, std::move(tensor));
  else
    items_[row->second].second = std::move(tensor);
}

const Tensor* StateDict::find(const std::string& name) const {
  auto row = index_.find(name);
  return row == index_.end() ? nullptr : &items_[row->second].second;
}

const Tensor& StateDict::at(const std::string& name) const {
  if (const Tensor* tensor = find(name)) return *tensor;
  std::vector<std::string> names;
  for (const auto& item : items_) names.push_back(item.first);
  std::string near = nearest(name, names);
  fail(ErrorKind::bad_key, "there is no tensor \"{}\" among {}{}", name, size(),
       near.empty() ? "" : fmt::format("; the nearest name is \"{}\"", near));
}

}  // namespace lora
