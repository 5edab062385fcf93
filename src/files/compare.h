#pragma once
// Two LoRA files beside each other, by what they change.
#include <filesystem>
#include <string>
#include <vector>

#include "files/inspect.h"

namespace lora {

struct Comparison {
  struct Row {
    std::string layer;  // `<component>.<path>`
    double cosine = 0;  // of the angle between the two changes, each taken as one long vector
    double ratio = 0;   // of their norms, the second's over the first's
    std::string note;   // why there are no numbers, or of what they are
  };

  std::string a, b;       // the files
  std::vector<Row> rows;  // layers that both have
  std::vector<std::string> only_in_a, only_in_b;
  double cosine = 0, ratio = 0;  // over all layers that have numbers, as one

  std::string summary() const;  // one line
  std::string text() const;
  std::string json() const;
};

// What needs the base model to be known (DoRA, OFT, GLoRA, IA3) is compared by its tensors. Throws as a load does.
Comparison compare_loras(const std::filesystem::path& a, const std::filesystem::path& b,
                         const ToolProgress& progress = {});

}  // namespace lora
