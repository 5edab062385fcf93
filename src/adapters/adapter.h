#pragma once
// One adapter on one component, and how it is made from a file's layers: look up, check; nothing is attached.
#include <functional>
#include <map>

#include "lora/lora_file.h"
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

struct PrepareOptions {
  std::string component;  // for messages and the report
  // A site's weight and bias without what is fused, for the kinds that look at them; called from several threads.
  std::function<Tensor(const Site&)> base, base_bias;
};

struct Prepared {
  Adapter adapter;
  LoadReport::Component report;
  std::vector<LoadReport::Unmatched> unmatched;
  std::vector<std::string> notes;  // layers that were passed over, or do nothing
};

// `layers`: those of the component. Each is looked up among its sites, exactly; what is not there is listed as
// unmatched; layers with NaN or infinity, also as alpha or scale, are skipped with a note. Throws Error{bad_key} for
// one half of a pair, Error{bad_shape} where sizes do not fit, naming up to a few of the layers, Error{bad_file} for a
// tensor without numbers. The deltas are in the sites' dtype and on their device; tensors that already are alias the
// caller's.
Prepared prepare(const Parts& parts, const std::vector<const LoraLayer*>& layers, const PrepareOptions& options);

}  // namespace lora
