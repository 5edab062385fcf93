// What PEFT's LoraConfig and diffusers' lora_adapter_metadata say of layers whose alphas are tensors here.
#include <ATen/ATen.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "core/check.h"
#include "core/text.h"
#include "loaders/metadata.h"

namespace lora {

using nlohmann::json;

namespace {

struct Layers {
  std::map<std::string, double> alphas;
  std::map<std::string, int64_t> ranks;
  bool use_dora = false, lora_bias = false;
};

Layers read(const StateDict& tensors) {
  Layers layers;
  for (const auto& [key, tensor] : tensors) {
    auto is = [&](std::string_view suffix) { return key.ends_with(suffix); };
    auto path = [&](std::string_view suffix) { return key.substr(0, key.size() - suffix.size()); };
    if (is(".alpha")) {
      check(tensor.numel() == 1, ErrorKind::usage, "save_lora_weights: {} has shape {}; one number is wanted", key,
            c10::str(tensor.sizes()));
      auto alpha = tensor.to(at::kDouble).item<double>();
      check(std::isfinite(alpha), ErrorKind::usage, "save_lora_weights: {} is {}; it must be a finite number", key,
            alpha);
      layers.alphas[path(".alpha")] = alpha;
    }
    layers.use_dora |= is(".lora_magnitude_vector");
    layers.lora_bias |= is(".lora_B.bias");
    if (!is(".lora_A.weight")) continue;
    check(tensor.dim() >= 2, ErrorKind::usage, "save_lora_weights: {} has shape {}; [rank, inputs] is wanted", key,
          c10::str(tensor.sizes()));
    layers.ranks[path(".lora_A.weight")] = tensor.size(0);
  }
  for (const auto& [path, alpha] : layers.alphas)
    check(layers.ranks.contains(path), ErrorKind::usage,
          "save_lora_weights: {}.alpha is given without {}.lora_A.weight, whose strength it would be", path, path);
  check(!layers.ranks.empty(), ErrorKind::usage,
        "save_lora_weights: no layer has a lora_A.weight, so nothing says what rank the adapter has");
  return layers;
}

// PEFT writes lora_alpha as it was given; whole numbers are what its readers know.
json number(double x) { return x == double(int64_t(x)) ? json(int64_t(x)) : json(x); }

}  // namespace

std::string adapter_fields(const std::string& component, const StateDict& tensors) {
  auto [alphas, ranks, use_dora, lora_bias] = read(tensors);
  // transformers' text encoder has no text_model level any more; diffusers drops it from tensors' names alone. A
  // pattern without an anchor fits both.
  bool text = component.starts_with("text_encoder");
  auto module = [&](const std::string& path) { return text ? replace_all(path, "text_model.", "") : path; };
  auto pattern = [&](const std::string& path) { return (text ? "" : "^") + module(path); };

  auto [first, r] = *ranks.begin();
  double alpha = alphas.contains(first) ? alphas[first] : double(r);
  json rank_pattern = json::object(), alpha_pattern = json::object(), targets = json::array();
  for (const auto& [path, rank] : ranks) {
    double own = alphas.contains(path) ? alphas[path] : double(rank);
    targets.push_back(module(path));
    if (rank != r) rank_pattern[pattern(path)] = rank;
    if (own != alpha) alpha_pattern[pattern(path)] = number(own);
  }
  return json{{"r", r},
              {"lora_alpha", number(alpha)},
              {"rank_pattern", rank_pattern},
              {"alpha_pattern", alpha_pattern},
              {"target_modules", targets},
              {"use_dora", use_dora},
              {"lora_bias", lora_bias},
              {"peft_type", "LORA"}}
      .dump();
}

}  // namespace lora
