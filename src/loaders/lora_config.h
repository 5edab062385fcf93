#pragma once
// PEFT's configs, as far as loading needs them: how strongly a file's layers act, and how, beyond what their own
// tensors say.
#include "loaders/peft_pattern.h"
#include "lora/lora_file.h"

namespace lora {

struct LoraConfig {
  std::string name;                                                         // for messages: where it stands
  std::string peft_type = "LORA";                                           // LORA, LOHA, LOKR, OFT, IA3
  double lora_alpha = 0;                                                    // `alpha` of LoHa and LoKr
  bool use_rslora = false;                                                  // scale is alpha / sqrt(r)
  std::optional<double> r;                                                  // none: PEFT's 8
  std::vector<std::pair<std::string, double>> alpha_pattern, rank_pattern;  // pattern of paths → value
  // OFT: matrices by this many terms of a series, or exactly.
  bool use_cayley_neumann = true;
  int64_t num_cayley_neumann_terms = 5;
  double coft_eps = 0;  // how far from I a layer's matrices may turn; 0 for any way
  // IA3: layers whose inputs are multiplied, by the ends of their paths or as a regular expression of the whole.
  std::vector<std::string> feedforward_modules;
  std::string feedforward_pattern;

  // The value of the first pattern that matches (loaders/peft_pattern.h); else lora_alpha, r. Throw Error{bad_file}.
  // `other`: another name of the layer, tried if no pattern matches the path.
  double alpha(const std::string& path, const std::string& other = "") const;
  double rank(const std::string& path, const std::string& other = "") const;
  // The same; nothing if neither is there.
  std::optional<double> stated_rank(const std::string& path, const std::string& other = "") const;
  bool is_feedforward(const std::string& path) const;

  // Of patterns, for errors about them.
  PatternSource source() const { return {ErrorKind::bad_file, name.c_str()}; }

  // Gives a layer its strength and settings. A `scale` of its own stays. Throws Error{bad_file} for a rank that is not
  // that of the layer's tensors.
  void apply(LoraLayer& layer) const;
};

}  // namespace lora
