#pragma once
// A Site is the weights of one layer. Adapters act on sites. The table of sites by path is filled while a model is
// built. It is all that the code for adapters knows of a model.
#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "lora/state_dict.h"
#include "lora/tensor.h"

namespace lora {

class RunSource;

enum class SiteKind { linear, conv2d, embedding, norm };

// The stride, padding, dilation and groups of a convolution. The down projection of an adapter has the same.
struct ConvGeometry {
  std::vector<int64_t> stride{1, 1}, padding{0, 0}, dilation{1, 1};
  int64_t groups = 1;
};

struct Parts;

struct Site {
  std::string path;  // as in the checkpoint, without ".weight"
  SiteKind kind = SiteKind::linear;
  ConvGeometry geometry;
  Tensor weight, bias;  // bias is undefined for a layer without a bias
  // The tensor of the file, if weight or bias is a converted copy of it and the file is mapped. The copy can be made
  // again from it. Otherwise undefined: the weight is the mapping itself, or it is not from a file.
  Tensor weight_source, bias_source;
  bool stays = false;  // fused adapters were written into it, so that it cannot be made again from its source

  size_t index = 0;              // in Parts::sites
  const Parts* owner = nullptr;  // the parts of the model
};

// Who uses the weights of a model, if they may leave memory meanwhile (nn/weights.h).
struct WeightHolds {
  std::mutex mutex;
  int count = 0;
  std::atomic<bool> may_leave = false;
};

// Everything that a model consists of: all its tensors and sites, and the pipeline it belongs to.
struct Parts {
  StateDict tensors;  // all tensors, under their names in the checkpoint
  std::vector<std::unique_ptr<Site>> sites;
  std::unordered_map<std::string, Site*> by_path;
  const Site* vocabulary = nullptr;  // the embedding of token ids, for a text encoder

  // The source of the model's runs, and the number of the model there. Set when a pipeline takes the model.
  const RunSource* source = nullptr;
  size_t component = 0;
  mutable WeightHolds holds;
};

}  // namespace lora
