#pragma once
// PEFT's configs, as far as loading needs them: how strongly a file's layers act, and how, beyond what their own
// tensors say.
#include "lora/lora_file.h"

namespace lora {

struct LoraConfig {
  std::string peft_type = "LORA";  // LORA, LOHA, LOKR, OFT, IA3
  double lora_alpha = 0;           // `alpha` of LoHa and LoKr
  bool use_rslora = false;         // scale is alpha / sqrt(r)
  double r = 0;                    // for LoKr, whose tensors need not have a rank
  std::vector<std::pair<std::string, double>> alpha_pattern, rank_pattern;  // pattern of paths → value
  // OFT: matrices by this many terms of a series, or exactly.
  bool use_cayley_neumann = true;
  int64_t num_cayley_neumann_terms = 5;
  double coft_eps = 0;  // how far from I a layer's matrices may turn; 0 for any way
  // IA3: layers whose inputs are multiplied, by the ends of their paths or as a regular expression of the whole.
  std::vector<std::string> feedforward_modules;
  std::string feedforward_pattern;

  // The value of the first pattern that matches (loaders/peft_pattern.h); else lora_alpha, r. Throw Error{bad_file}.
  double alpha(const std::string& path) const;
  double rank(const std::string& path) const;
  bool is_feedforward(const std::string& path) const;

  // Gives a layer its strength and settings. A `scale` of its own stays.
  void apply(LoraLayer& layer) const;
};

}  // namespace lora
