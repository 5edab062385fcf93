#pragma once
// A generator of layers of every kind, for weights of any size and for the layers of every base model.
#include <ATen/ATen.h>

#include <functional>

#include "kinds/kinds.h"
#include "names/base_model.h"
#include "names/native.h"

namespace lora {

// The weight that a layer is for.
struct Weight {
  std::string path;
  int64_t rows, columns;        // columns: inputs times the kernel
  std::vector<int64_t> kernel;  // empty for a linear layer
  bool norm = false;

  int64_t inputs() const { return kernel.empty() ? columns : columns / (kernel[0] * kernel[1]); }
};

// One way in which a layer may be of a kind.
struct KindCase {
  const char* name;
  LayerTensors (*make)(const Weight& w);
  std::optional<double> alpha;
  bool can_be_cut = true;  // into the rows of q, k and v
};

inline Tensor noise(std::vector<int64_t> shape) { return at::randn(shape) * 0.1; }
inline std::vector<int64_t> with_kernel(std::vector<int64_t> shape, const std::vector<int64_t>& kernel) {
  shape.insert(shape.end(), kernel.begin(), kernel.end());
  return shape;
}
// Trailing ones where the layer is a convolution.
inline std::vector<int64_t> with_ones(std::vector<int64_t> shape, const Weight& w) {
  shape.resize(shape.size() + w.kernel.size(), 1);
  return shape;
}
inline int64_t block_of(int64_t n) { return n % 4 == 0 ? 4 : 2; }

inline LayerTensors lora_factors(const Weight& w) {
  return {{"lora_A.weight", noise(with_kernel({2, w.inputs()}, w.kernel))},
          {"lora_B.weight", noise(with_ones({w.rows, 2}, w))}};
}

inline LayerTensors with(LayerTensors tensors, const char* suffix, const Tensor& tensor) {
  tensors.emplace(suffix, tensor);
  return tensors;
}

inline LayerTensors loha(const Weight& w) {
  return {{"hada_w1_a", noise({w.rows, 2})},
          {"hada_w1_b", noise({2, w.columns})},
          {"hada_w2_a", noise({w.rows, 2})},
          {"hada_w2_b", noise({2, w.columns})}};
}

inline const std::vector<KindCase>& kind_cases() {
  static const std::vector<KindCase> all = {
      {"LoRA", [](const Weight& w) { return lora_factors(w); }, 1.5},
      {"LoRA_without_alpha", [](const Weight& w) { return lora_factors(w); }, {}},
      {"LoRA_beside_a_bias", [](const Weight& w) { return with(lora_factors(w), "diff_b", noise({w.rows})); }, 2.0},
      {"Tucker",
       [](const Weight& w) {
         if (w.kernel.empty()) return lora_factors(w);
         return LayerTensors{{"lora_A.weight", noise({2, w.inputs(), 1, 1})},
                             {"lora_B.weight", noise({w.rows, 2, 1, 1})},
                             {"lora_mid.weight", noise(with_kernel({2, 2}, w.kernel))}};
       },
       1.0},
      {"DoRA",
       [](const Weight& w) {
         return with(lora_factors(w), "dora_scale", at::rand(with_ones({w.rows, 1}, Weight{"", 0, 0, w.kernel})) + 1);
       },
       1.0},
      {"DoRA_of_inputs",
       [](const Weight& w) {
         return with(lora_factors(w), "dora_scale",
                     at::rand(with_ones({1, w.inputs()}, Weight{"", 0, 0, w.kernel})) + 1);
       },
       1.0, false},
      {"LoHa", loha, 0.5},
      {"LoHa_with_cores",
       [](const Weight& w) {
         if (w.kernel.empty()) return loha(w);
         return LayerTensors{{"hada_w1_a", noise({2, w.rows})},
                             {"hada_w1_b", noise({2, w.inputs()})},
                             {"hada_w2_a", noise({2, w.rows})},
                             {"hada_w2_b", noise({2, w.inputs()})},
                             {"hada_t1", noise(with_kernel({2, 2}, w.kernel))},
                             {"hada_t2", noise(with_kernel({2, 2}, w.kernel))}};
       },
       1.0},
      {"LoKr",
       [](const Weight& w) {
         return LayerTensors{{"lokr_w1", noise({2, 2})}, {"lokr_w2", noise({w.rows / 2, w.columns / 2})}};
       },
       {}},
      {"LoKr_of_factors",
       [](const Weight& w) {
         return LayerTensors{{"lokr_w1_a", noise({2, 1})},
                             {"lokr_w1_b", noise({1, 2})},
                             {"lokr_w2_a", noise({w.rows / 2, 2})},
                             {"lokr_w2_b", noise({2, w.columns / 2})}};
       },
       1.0},
      {"GLoRA",
       [](const Weight& w) {
         return LayerTensors{{"a1.weight", noise({w.inputs(), 2})},
                             {"a2.weight", noise({2, w.inputs()})},
                             {"b1.weight", noise({w.rows, 2})},
                             {"b2.weight", noise(with_kernel({2, w.inputs()}, w.kernel))}};
       },
       1.0, false},
      {"IA3_of_outputs",
       [](const Weight& w) {
         return LayerTensors{{"weight", noise({w.rows})}, {"on_input", at::scalar_tensor(false, at::kBool)}};
       },
       {}},
      {"IA3_of_inputs",
       [](const Weight& w) {
         return LayerTensors{{"weight", noise({w.inputs()})}, {"on_input", at::scalar_tensor(true, at::kBool)}};
       },
       {}},
      {"OFT",
       [](const Weight& w) {
         auto b = block_of(w.rows);
         return LayerTensors{{"oft_blocks", noise({w.rows / b, b, b})}, {"rescale", at::rand({w.rows, 1}) + 0.5}};
       },
       0.0},
      {"BOFT",
       [](const Weight& w) {
         return LayerTensors{{"oft_blocks", noise({1, w.rows / 2, 2, 2})}};
       },
       0.0, false},
      {"OFT_v2",
       [](const Weight& w) {
         auto b = block_of(w.columns);
         return LayerTensors{{"oft_R.weight", noise({w.columns / b, b * (b - 1) / 2})}};
       },
       {}},
      {"difference",
       [](const Weight& w) {
         return LayerTensors{{"diff", noise(with_kernel({w.rows, w.inputs()}, w.kernel))}, {"diff_b", noise({w.rows})}};
       },
       {}},
  };
  return all;
}

inline LoraLayer layer_for(const KindCase& kind, const std::string& component, const Weight& w) {
  LoraLayer layer{.component = component, .path = w.path};
  if (w.norm)
    layer.tensors = {{"diff", noise({w.rows})}, {"diff_b", noise({w.rows})}};
  else
    layer.tensors = kind.make(w);
  if (!w.norm) layer.alpha = kind.alpha;
  layer.kind = kind_name(layer.tensors);
  return layer;
}

}  // namespace lora
