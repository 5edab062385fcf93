#pragma once
// One adapter on one component, and how it is made from canonical tensors: parse, look up, check; nothing is attached.
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
  std::string name;
  std::vector<Entry> entries;  // in the order of the model's sites
};

// How strongly a file's layers act, beyond what its alphas say: PEFT's LoraConfig as far as loading needs it.
struct LoraConfig {
  int64_t r = 0;
  double lora_alpha = 0;
  bool use_rslora = false;                                    // scale is alpha / sqrt(r)
  std::vector<std::pair<std::string, int64_t>> rank_pattern;  // regular expression of paths → rank
  std::vector<std::pair<std::string, double>> alpha_pattern;  // regular expression of paths → alpha

  // PEFT's rule: the first pattern P for which `(.*\.)?(P)` matches the whole path; else lora_alpha.
  double alpha(const std::string& path) const;
};

struct PrepareOptions {
  std::string component;                 // for messages and the report
  std::map<std::string, double> alphas;  // by path; a layer without one has alpha = rank
  std::optional<LoraConfig> config;      // replaces the alphas
};

struct Prepared {
  Adapter adapter;
  LoadReport::Component report;
  std::vector<LoadReport::Unmatched> unmatched;
};

// `tensors`: `<path>.<canonical suffix>`. Each is looked up among the component's sites, exactly; what is not there is
// listed as unmatched. Throws Error{bad_key} for one half of a pair, Error{bad_shape} where sizes do not fit, naming up
// to a few of the layers. The deltas are in the sites' dtype and on their device; tensors that already are alias the
// caller's.
Prepared prepare(const Parts& parts, const StateDict& tensors, const PrepareOptions& options);

}  // namespace lora
