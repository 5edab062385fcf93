#pragma once
// Single-file checkpoints of tiny models (tests/data/models/single_file), with weights made from names.
#include "pipelines/tiny_pipelines.h"

namespace lora::tiny {

// A checkpoint of that kind. `start` comes before the names that make the weights below `prefix`.
inline StateDict checkpoint(const std::string& kind, const std::string& prefix = "", const std::string& start = "") {
  StateDict file;
  const auto listed = reference::read("single_file/" + kind + ".json");
  for (const auto& item : listed["file"]) {
    auto name = item[0].get<std::string>();
    auto made_of = (name.starts_with(prefix) ? start : "") + name;
    file.set(name, reference::weight(made_of, item[1].get<std::vector<int64_t>>()));
  }
  return file;
}

// The tensors below a prefix, without it.
inline StateDict below(const StateDict& file, const std::string& prefix) {
  StateDict kept;
  for (const auto& [name, t] : file)
    if (name.starts_with(prefix)) kept.set(name.substr(prefix.size()), t);
  return kept;
}

// All other tensors.
inline StateDict without(const StateDict& file, const std::string& prefix) {
  StateDict kept;
  for (const auto& [name, t] : file)
    if (!name.starts_with(prefix)) kept.set(name, t);
  return kept;
}

// Two models have the same config and weights.
inline void expect_same(const Model& a, const Model& b) {
  auto config = [](const Model& model) {
    auto fields = json::parse(model.config());
    fields.erase("sample_size");  // no tensor and no computation has it
    return fields;
  };
  EXPECT_EQ(config(a), config(b));
  ASSERT_EQ(a.state_dict().size(), b.state_dict().size());
  for (const auto& [name, t] : a.state_dict()) EXPECT_TRUE(same_bits(t, b.state_dict().at(name))) << name;
}

}  // namespace lora::tiny
