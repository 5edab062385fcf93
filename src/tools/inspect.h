#pragma once
// What a LoRA file is, before any model is opened.
#include <map>
#include <string>
#include <vector>

#include "lora/adapters.h"
#include "lora/loaders.h"

namespace lora {

struct Inspection {
  struct Ranks {  // layers that share a rank and an alpha
    int64_t rank;
    double alpha;  // the rank where the file has none
    size_t layers;
  };
  struct Component {
    std::string name;
    size_t linear_layers = 0, conv_layers = 0;
    std::vector<Ranks> ranks;  // most layers first
  };

  std::string file, dialect, algorithm, architecture;
  std::vector<Component> components;
  std::map<std::string, size_t> dtypes;  // tensors of each
  uint64_t bytes = 0;                    // of the file
  size_t tensors = 0;
  std::map<std::string, std::string> metadata;
  std::vector<LoadReport::Unmatched> unmatched;
  std::vector<std::string> notes;

  std::string text() const;
  std::string json() const;
};

// Throws as a load does where the file holds no LoRA that can be read.
Inspection inspect_lora(const std::filesystem::path& source);

}  // namespace lora
