#pragma once
// What a layer becomes where the target stores plain factors only.
#include <functional>
#include <map>

#include "files/change.h"
#include "files/published_models.h"
#include "lora/files.h"

namespace lora {

// One layer as the target will have it. `make` gives its factors, in float32, where they are not those of the file.
struct Plan {
  LoraLayer layer;
  std::function<FactorPair()> make;
};

class Planner {
 public:
  // Throws Error{unsupported} for layers that no factors can replace, or that `options` do not let replace.
  Planner(const LoraFile& file, const ConvertOptions& options);

  // `make` needs this planner.
  Plan plan(const LoraLayer& layer);
  // How many layers had a core.
  size_t folded() const { return folded_; }
  // The relative error of each approximated layer whose factors were made, by name.
  const std::map<std::string, double>& errors() const { return errors_; }

 private:
  const BaseModel base_model_;
  const int64_t rank_;
  std::map<std::string, PublishedComponent> published_;
  size_t folded_ = 0;
  std::map<std::string, double> errors_;

  Plan without_core(const LoraLayer& layer);
  Plan approximated(const LoraLayer& layer);
};

}  // namespace lora
