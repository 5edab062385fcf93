#pragma once
// The state of a pipeline, from its public calls, to compare it before and after a call.
#include <ATen/ATen.h>

#include "lora/pipelines.h"
#include "support/compare.h"

namespace lora::states {

// Factors of rank 4 for every linear layer whose path ends in one of `targets`, in every component. Strong enough to
// show in every bit of a picture.
inline StateDict factors(const DiffusionPipeline& pipe, uint64_t seed = 1,
                         const std::vector<std::string>& targets = {"to_q", "q_proj"}) {
  at::manual_seed(seed);
  StateDict tensors;
  for (const auto& [component, model] : pipe.models())
    for (const auto& [name, weight] : model->state_dict()) {
      auto is_target = [&](auto& target) { return name.ends_with(target + ".weight"); };
      if (weight.dim() != 2 || std::none_of(targets.begin(), targets.end(), is_target)) continue;
      auto path = component + "." + name.substr(0, name.size() - std::string(".weight").size());
      tensors.set(path + ".lora_A.weight", at::randn({4, weight.size(1)}) * 0.3);
      tensors.set(path + ".lora_B.weight", at::randn({weight.size(0), 4}) * 0.3);
    }
  return tensors;
}

// Every weight under its component's name, copied.
using Weights = std::vector<std::pair<std::string, Tensor>>;

inline Weights weights(const DiffusionPipeline& pipe) {
  Weights all;
  for (const auto& [component, model] : pipe.models())
    for (const auto& [name, tensor] : model->state_dict()) all.emplace_back(component + "." + name, tensor.clone());
  return all;
}

// The name of the first weight that has changed, or "".
inline std::string changed_weight(const DiffusionPipeline& pipe, const Weights& before) {
  size_t i = 0;
  for (const auto& [component, model] : pipe.models())
    for (const auto& [name, tensor] : model->state_dict()) {
      if (i == before.size()) return "a weight too many: " + component + "." + name;
      const auto& [was_called, was] = before[i++];
      if (was_called != component + "." + name || !same_bits(tensor, was)) return component + "." + name;
    }
  return i == before.size() ? "" : "a weight less";
}

// Everything that a call may change.
struct State {
  Weights weights;
  std::vector<std::string> active, fused;
  std::map<std::string, std::vector<std::string>> loaded;
  std::vector<std::pair<std::string, std::vector<int64_t>>> words;
};

inline auto added_words(const DiffusionPipeline& pipe) {
  std::vector<std::pair<std::string, std::vector<int64_t>>> all;
  for (const auto& c : pipe.models())
    for (const auto& word : c.model->added_words()) all.emplace_back(c.name + ": " + word.text, word.ids);
  return all;
}

inline State state(const DiffusionPipeline& pipe) {
  return {weights(pipe), pipe.get_active_adapters(), pipe.fused_loras(), pipe.get_list_adapters(), added_words(pipe)};
}

// What has changed, or "".
inline std::string difference(const DiffusionPipeline& pipe, const State& before) {
  if (auto name = changed_weight(pipe, before.weights); !name.empty()) return "the weight " + name;
  if (pipe.get_active_adapters() != before.active) return "what is active";
  if (pipe.fused_loras() != before.fused) return "what is fused";
  if (pipe.get_list_adapters() != before.loaded) return "what is loaded";
  if (added_words(pipe) != before.words) return "the words";
  return "";
}

}  // namespace lora::states
