#pragma once
// What a LoRA file is and whether it is sound, before any model is opened.
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "files/hashes.h"
#include "lora/adapters.h"
#include "lora/loaders.h"

namespace lora {

struct Inspection {
  struct Layer {
    std::string component, path, kind;
    int64_t rank = 0;
    double alpha = 0;
    bool convolution = false;
    int64_t rows = 0, columns = 0;  // of the weight that it is for, as far as its tensors tell
    double norm = 0;                // Frobenius, of what it adds at strength 1; 0 where that depends on the base
    std::string error;              // why the norm cannot be computed
  };
  struct Ranks {  // layers that share a rank and an alpha
    int64_t rank;
    double alpha;  // the rank where the file has none
    size_t layers;
  };
  struct Component {
    std::string name;
    std::map<std::string, size_t> kinds;  // layers of each
    size_t linear_layers = 0, conv_layers = 0;
    std::vector<Ranks> ranks;  // most layers first
    std::string model;         // the published one that fits best; "" for none known
    size_t covered = 0;        // of its layers
    size_t of = 0;             // the linear layers and convolutions that it has
  };
  struct Finding {
    bool problem = false;  // otherwise a remark
    std::string what;
    std::vector<std::string> layers;
  };

  std::string file;  // or the folder, where it has a file for each component
  std::string dialect, algorithm, trainer;
  std::string architecture;  // "SDXL"; "" where nothing tells it
  std::string known_by;      // what tells it
  std::vector<Component> components;
  std::vector<Layer> layers;
  std::map<std::string, std::vector<std::string>> words;  // those that it brings embeddings for, with the components
  std::map<std::string, size_t> dtypes;                   // tensors of each
  uint64_t bytes = 0;                                     // of the tensors
  size_t tensors = 0;
  FileHashes hashes;
  std::vector<Finding> findings;
  std::map<std::string, std::string> metadata;
  std::vector<LoadReport::Unmatched> unmatched;
  std::vector<std::string> notes;

  size_t problems() const;
  std::string verdict() const;  // one line
  std::string text() const;     // for people: long values are cut
  std::string json() const;     // all of it
};

using ToolProgress = std::function<void(int done, int total)>;

// Throws as a load does where the file holds no LoRA that can be read.
Inspection inspect_lora(const std::filesystem::path& source, const ToolProgress& progress = {});

}  // namespace lora
