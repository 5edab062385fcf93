#pragma once
// A Site is one layer's weights, and the place where adapters meet a model. The table of sites by path, filled while a
// model builds, is all that whoever attaches adapters ever sees of it.
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "lora/added_word.h"
#include "lora/state_dict.h"
#include "lora/tensor.h"

namespace lora {

class Delta;

// What the adapters that apply to a run do, together, at one site:
//   y = gain ⊙ (W x) + scale · ((A x) ⊙ s) B + bias
// Low-rank adapters are stacked, so that their number does not show in the work.
struct Applied {
  Tensor A;          // linear [R, in], conv [R, in, kh, kw], embedding [R, num]; undefined where none is low-rank
  Tensor B;          // linear [out, R], conv [out, R, 1, 1], embedding [dim, R]
  Tensor s;          // [R] float32: one factor a rank; undefined where `scale` says it all
  double scale = 1;  // one factor for all ranks
  Tensor gain;       // [out] float32; undefined for 1
  Tensor weight;     // stands in for Site::weight where defined
  Tensor bias;       // stands in for Site::bias where defined
  // Where adapters are for some images or regions alone (Run::shares): whose share each of them takes.
  Tensor entry;   // [R] int64, of each rank
  Tensor gains;   // [entries, out]: what each adds to a gain of 1; undefined for nothing. `gain` is undefined then
  Tensor biases;  // [entries, out]: what each adds to the site's own bias; undefined for nothing
  // A delta that is being trained, alone here: asked anew in every forward pass, so that each has a graph of its own
  // and sees what the last step wrote. All else is undefined then.
  std::shared_ptr<const Delta> trained;
  double strength = 0;  // its own
  Tensor base;          // what it looks at: the site's weight without what is fused
};

// How much of each adapter the images of a batch take, and where in them.
struct Shares {
  Tensor images;  // [images, entries] float32; a batch is these images, or several rounds of them
  Tensor masks;   // [entries, H, W] float32 over the latent image; undefined where everything is everywhere
  // What text embeddings look like, [tokens, width]: they have no place in the picture, whatever their number.
  int64_t tokens = 0, width = 0;

  // For an input [batch, channels, h, w], [batch, tokens, width] or [batch, width]: [batch, entries, h, w],
  // [batch, tokens, entries], [batch, entries]; sizes may be 1. Places are told by sizes: h·w tokens of a level of the
  // UNet. What has no place in the picture takes the mean of a mask.
  Tensor of(const Tensor& x, bool is_image) const;
};

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

  // What applies here in the run that this thread is in, or nullptr; and that run's shares.
  std::pair<const Applied*, const Shares*> applied() const;
};

// Words beyond a text encoder's vocabulary: their ids go on where the vocabulary ends, in the order of the rows.
struct AddedRows {
  Tensor rows;  // [rows, dim], of the embedding's dtype
  std::vector<AddedWord> words;
};

// One run's deltas. Immutable once published.
struct Run {
  std::vector<std::shared_ptr<const Applied>> at;  // by Site::index; nullptr where none applies
  std::shared_ptr<const AddedRows> added;          // nullptr for none
  std::string problem;                             // why no run may start with it, such as tensors on another device
  std::shared_ptr<const Shares> shares;            // nullptr where every image takes everything
  std::shared_ptr<const void> state;               // of whoever published it
};

// Everything a model is made of.
struct Parts {
  StateDict tensors;  // every tensor, under the checkpoint's names
  std::vector<std::unique_ptr<Site>> sites;
  std::unordered_map<std::string, Site*> by_path;
  const Site* vocabulary = nullptr;  // a text encoder's embedding of token ids

  // The deltas that a run takes when it starts; nullptr for none. Publishing never disturbs a run under way.
  std::shared_ptr<const Run> current() const { return std::atomic_load(&current_); }
  // Whoever changes weights publishes what goes with them before releasing in_use.
  void publish(std::shared_ptr<const Run> run) { std::atomic_store(&current_, std::move(run)); }

  // Held shared by every run and alone by whoever writes weights in place.
  mutable std::shared_mutex in_use;
  // Whatever is attached to the model for its whole life; the adapters' registry.
  std::shared_ptr<void> attached;

 private:
  std::shared_ptr<const Run> current_;
};

// Pins a model's deltas and weights for this thread while it lives. Models open one at each call; whoever makes several
// calls that must agree (a pipeline's steps) opens one around them, and may give deltas of its own.
class RunScope {
 public:
  // Throws Error{conflict} with the run's problem, if it has one.
  explicit RunScope(const Parts& parts);
  RunScope(const Parts& parts, std::shared_ptr<const Run> run);
  ~RunScope();
  RunScope(const RunScope&) = delete;
  RunScope& operator=(const RunScope&) = delete;

  // True where this thread is inside a run of these parts.
  static bool running(const Parts& parts) { return find(parts) != nullptr; }
  // The deltas of the run that this thread is in; nullptr for none.
  static std::shared_ptr<const Run> pinned(const Parts& parts) { return find(parts) ? find(parts)->run_ : nullptr; }
  // What is added to the vocabulary in the run that this thread is in, else in the one that would start now; nullptr
  // for nothing.
  static std::shared_ptr<const AddedRows> added(const Parts& parts);

 private:
  friend struct Site;
  static const RunScope* find(const Parts& parts);

  const Parts* parts_;
  std::shared_lock<std::shared_mutex> lock_;  // taken by the outermost scope only, before it looks at what to apply
  std::shared_ptr<const Run> run_;
  const RunScope* outer_;
};

// The layer's output for x with everything that applies: the only three places where a weight meets an input.
Tensor linear(const Site& site, const Tensor& x);       // x [..., in] → [..., out]
Tensor conv2d(const Site& site, const Tensor& x);       // x [N, in, H, W] → [N, out, H', W']
Tensor embedding(const Site& site, const Tensor& ids);  // int64 [...] → [..., dim]
// The weight and bias that a norm uses in this run.
std::pair<const Tensor&, const Tensor&> norm_weights(const Site& site);

}  // namespace lora
