#pragma once
// A Site is one layer's weights, and the place where adapters meet a model. The table of sites by path, filled while a
// model builds, is all that whoever attaches adapters ever sees of it.
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "lora/state_dict.h"
#include "lora/tensor.h"

namespace lora {

class RunSource;

enum class SiteKind { linear, conv2d, embedding, norm };

// How a convolution walks over its input; the adapters' down projection walks the same way.
struct ConvGeometry {
  std::vector<int64_t> stride{1, 1}, padding{0, 0}, dilation{1, 1};
  int64_t groups = 1;
};

struct Parts;

struct Site {
  std::string path;  // as in the checkpoint, without ".weight"
  SiteKind kind = SiteKind::linear;
  ConvGeometry geometry;
  Tensor weight, bias;  // bias undefined where the layer has none
  // What the file holds, where weight or bias is a converted copy of it and the file is mapped: restoring reads it
  // again. Undefined where the tensors alias the mapping themselves or came from no file.
  Tensor weight_source, bias_source;

  size_t index = 0;              // in Parts::sites
  const Parts* owner = nullptr;  // the model's parts
};

// Everything a model is made of.
struct Parts {
  StateDict tensors;  // every tensor, under the checkpoint's names
  std::vector<std::unique_ptr<Site>> sites;
  std::unordered_map<std::string, Site*> by_path;
  const Site* vocabulary = nullptr;  // a text encoder's embedding of token ids

  // Who gives the model its runs, and under which number it does: set once, when a pipeline takes the model.
  const RunSource* source = nullptr;
  size_t component = 0;
};

}  // namespace lora
