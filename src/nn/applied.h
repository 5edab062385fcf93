#pragma once
// What all adapters of a run do together at one site, and the layers that apply it. There are three forms. Each form
// has its own forward pass.
#include <memory>
#include <variant>
#include <vector>

#include "nn/place.h"
#include "nn/site.h"

namespace lora {

class Delta;

// The stacked factors of several low-rank adapters. The work is two products, whatever the number of adapters is.
struct FactorStack {
  Tensor A;                    // linear [R, in], conv [R, in, kh, kw], embedding [R, num]
  Tensor B;                    // linear [out, R], conv [out, R, 1, 1], embedding [dim, R]
  std::vector<Tensor> As, Bs;  // the factors that were stacked; empty for one adapter
};

// All images take all adapters:
//   y = gain ⊙ (W x) + scale · ((A x) ⊙ s) B + bias
struct ForAll {
  std::shared_ptr<const FactorStack> factors;  // nullptr if no adapter is low-rank
  Tensor s;                                    // [R] float32: one factor for each rank; undefined if `scale` is enough
  double scale = 1;                            // one factor for all ranks
  Tensor gain;                                 // [out] float32; undefined for 1
  Tensor weight;                               // if defined, replaces Site::weight
  Tensor bias;                                 // if defined, replaces Site::bias
};

// The weight of each adapter for each image of a batch, and for each region of the images.
struct ImageWeights {
  Tensor images;  // [images, adapters] float32; a batch repeats these images once or more
  Tensor masks;   // [adapters, H, W] float32 over the latent image; undefined if no adapter has a region

  // For an input [batch, …, channels] at `place`: [batch, …, adapters], where sizes may be 1. An input without a place
  // in the image takes the mean of each mask. Throws Error{usage} unless the batch is a multiple of the images.
  Tensor of_rows(const Tensor& x, Place place) const;
  // For a feature map [batch, channels, h, w]: [batch, adapters, h, w], where sizes may be 1.
  Tensor of_maps(const Tensor& x) const;
};

// Each image, or each region, has its own weight for each adapter. This is ForAll with two changes. The weight of an
// adapter multiplies s for the adapter's ranks. Gains and biases are sums of weight · row over the adapters.
struct PerImage {
  std::shared_ptr<const ImageWeights> image_weights;
  std::shared_ptr<const FactorStack> factors;  // nullptr if no adapter is low-rank
  Tensor s;                                    // [R] float32
  Tensor adapter_of_rank;                      // [R] int64
  Tensor gains;   // [adapters, out]: added to a gain of 1; undefined if no adapter has a gain
  Tensor biases;  // [adapters, out]: added to the bias of the site; undefined if no adapter has a bias
};

// One delta that is being trained, without other deltas. Each forward pass calls Delta::effect() again. So each pass
// has its own autograd graph and sees the latest values of the factors.
struct Trained {
  std::shared_ptr<const Delta> delta;
  double strength = 0;
  Tensor base;  // the weight of the site without fused adapters; undefined if nothing is fused there
};

using Applied = std::variant<ForAll, PerImage, Trained>;

// The output of a layer for x, with everything that applies. All products of weights and inputs are made here.
Tensor linear(const Site& site, const Placed& x);       // x [..., in] → [..., out]
Tensor conv2d(const Site& site, const Tensor& x);       // x [N, in, H, W] → [N, out, H', W']
Tensor embedding(const Site& site, const Placed& ids);  // int64 [N, …] → [N, …, dim]
// The weight and bias that a norm uses in this run.
std::pair<const Tensor&, const Tensor&> norm_weights(const Site& site);

}  // namespace lora
