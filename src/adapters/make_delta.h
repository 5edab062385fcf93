#pragma once
// From the tensors of one layer to its delta: which algorithm they are, and how strongly they act.
#include <map>
#include <string>
#include <string_view>

#include "adapters/adapter.h"

namespace lora {

// The tensors of one layer, by canonical suffix.
struct Group {
  std::string path;
  StateDict tensors;

  Tensor get(const std::string& suffix) const {
    auto* t = tensors.find(suffix);
    return t ? *t : Tensor();
  }
  bool has(const std::string& suffix) const { return tensors.contains(suffix); }
};

// `down_blocks.0.conv1.lora_A.weight` is `down_blocks.0.conv1` and `lora_A.weight`; the suffix is empty where it is
// none that an adapter has.
std::pair<std::string, std::string_view> split_key(const std::string& key);

// What a layer lacks to be an adapter, or "": one half of a pair, a word without its sentence.
std::string missing_part(const Group& group);

// In the site's dtype and on its device. Throws Error{bad_shape}, Error{unsupported}.
std::shared_ptr<const Delta> make_delta(const Group& group, const Site& site, const PrepareOptions& options);

}  // namespace lora
