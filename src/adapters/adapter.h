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
  std::string name;
  std::vector<Entry> entries;  // in the order of the model's sites
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

// How strongly a file's layers act, beyond what its alphas say: PEFT's LoraConfig as far as loading needs it. Ranks are
// those of the tensors.
struct LoraConfig {
  double lora_alpha = 0;
  bool use_rslora = false;                                    // scale is alpha / sqrt(r)
  std::vector<std::pair<std::string, double>> alpha_pattern;  // regular expression of paths → alpha

  // PEFT's rule: the first pattern P for which `(.*\.)?(P)` matches the whole path; else lora_alpha.
  double alpha(const std::string& path) const;
};

struct PrepareOptions {
  std::string component;                    // for messages and the report
  std::map<std::string, double> alphas;     // by path; a layer without one has alpha = rank
  std::optional<LoraConfig> config;         // replaces the alphas
  std::function<Tensor(const Site&)> base;  // a site's base weight, for the kinds that look at it; none: Site::weight
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
