#pragma once
// One adapter on one component, and how it is made from canonical tensors: parse, look up, check; nothing is attached.
#include <functional>
#include <map>
#include <optional>

#include "lora/adapters.h"
#include "nn/delta.h"

namespace lora {

struct Adapter {
  struct Entry {
    Site* site;
    std::shared_ptr<const Delta> delta;
  };
  std::vector<Entry> entries;  // in the order of the model's sites
  // Words that a text encoder has while the adapter is loaded, active or not, and the rows of each: [vectors, dim], in
  // the encoder's dtype and on its device.
  std::map<std::string, Tensor> words;
};

// How strongly an adapter acts: a number for all of a component's sites, or one for each.
struct SiteWeights {
  double number = 1;
  std::vector<double> by_site;  // by Site::index; empty where the number holds for all

  double at(size_t index) const { return by_site.empty() ? number : by_site[index]; }
  bool none() const;  // zero everywhere
  SiteWeights operator*(double factor) const;
  bool operator==(const SiteWeights&) const = default;
};

// How strongly a file's layers act, beyond what its alphas say, and how: PEFT's configs as far as loading needs them.
struct LoraConfig {
  std::string peft_type = "LORA";  // LORA, LOHA, LOKR, OFT, IA3
  double lora_alpha = 0;           // `alpha` of LoHa and LoKr
  bool use_rslora = false;         // scale is alpha / sqrt(r)
  double r = 0;                    // for LoKr, whose tensors need not have a rank
  std::vector<std::pair<std::string, double>> alpha_pattern, rank_pattern;  // regular expression of paths → value
  // OFT: matrices by this many terms of a series, or exactly.
  bool use_cayley_neumann = true;
  int64_t num_cayley_neumann_terms = 5;
  double coft_eps = 0;  // how far from I a layer's matrices may turn; 0 for any way
  // IA3: layers whose inputs are multiplied, by the ends of their paths or as a regular expression of the whole.
  std::vector<std::string> feedforward_modules;
  std::string feedforward_pattern;

  // PEFT's rule: the first pattern P for which `(.*\.)?(P)` matches the whole path; else lora_alpha, r.
  double alpha(const std::string& path) const;
  double rank(const std::string& path) const;
  bool is_feedforward(const std::string& path) const;
};

struct PrepareOptions {
  std::string component;                 // for messages and the report
  std::map<std::string, double> alphas;  // by path; a layer without one has alpha = rank
  std::optional<LoraConfig> config;      // replaces the alphas
  bool by_onetrainer = false;            // whose OFT turns convolutions the other way
  // A site's weight and bias without what is fused, for the kinds that look at them; called from several threads.
  std::function<Tensor(const Site&)> base, base_bias;
};

struct Prepared {
  Adapter adapter;
  LoadReport::Component report;
  std::vector<LoadReport::Unmatched> unmatched;
  std::vector<std::string> notes;  // layers that were passed over, or do nothing
};

// `tensors`: `<path>.<canonical suffix>`. Each is looked up among the component's sites, exactly; what is not there is
// listed as unmatched; layers of rank 0 or with NaN or infinity are passed over with a note. Throws Error{bad_key} for
// one half of a pair, Error{bad_shape} where sizes do not fit, naming up to a few of the layers. The deltas are in the
// sites' dtype and on their device; tensors that already are alias the caller's.
Prepared prepare(const Parts& parts, const StateDict& tensors, const PrepareOptions& options);

}  // namespace lora
