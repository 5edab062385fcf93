#pragma once
// What the adapters of a run do, together, at one site, and the layers that do it. There are three forms, each with a
// forward pass of its own.
#include <memory>
#include <variant>
#include <vector>

#include "nn/place.h"
#include "nn/site.h"

namespace lora {

class Delta;

// The factors of several low-rank adapters, one above the other, so that their number does not show in the work.
struct FactorStack {
  Tensor A;                    // linear [R, in], conv [R, in, kh, kw], embedding [R, num]
  Tensor B;                    // linear [out, R], conv [out, R, 1, 1], embedding [dim, R]
  std::vector<Tensor> As, Bs;  // what they were made of, where that is more than one pair
};

// Every image takes every adapter:
//   y = gain ⊙ (W x) + scale · ((A x) ⊙ s) B + bias
struct ForAll {
  std::shared_ptr<const FactorStack> factors;  // nullptr where none is low-rank
  Tensor s;                                    // [R] float32: one factor a rank; undefined where `scale` says it all
  double scale = 1;                            // one factor for all ranks
  Tensor gain;                                 // [out] float32; undefined for 1
  Tensor weight;                               // stands in for Site::weight where defined
  Tensor bias;                                 // stands in for Site::bias where defined
};

// How much of each adapter the images of a batch take, and where in them.
struct Shares {
  Tensor images;  // [images, adapters] float32; a batch is these images, or several rounds of them
  Tensor masks;   // [adapters, H, W] float32 over the latent image; undefined where everything is everywhere

  // For inputs [batch, …, channels] at that place: [batch, …, adapters], where sizes may be 1. Inputs without a place
  // in the picture take the mean of a mask. Throws Error{usage} where the batch is no multiple of the images.
  Tensor of_rows(const Tensor& x, Place place) const;
  // For feature maps [batch, channels, h, w]: [batch, adapters, h, w], where sizes may be 1.
  Tensor of_maps(const Tensor& x) const;
};

// Each image, or each region, takes its own share of every adapter. As ForAll, but that the share of a rank's adapter
// multiplies s, and that gains and biases are the sum over the adapters of share · row.
struct PerImage {
  std::shared_ptr<const Shares> shares;
  std::shared_ptr<const FactorStack> factors;  // nullptr where none is low-rank
  Tensor s;                                    // [R] float32
  Tensor adapter_of_rank;                      // [R] int64
  Tensor gains;                                // [adapters, out]: what each adds to a gain of 1; undefined for nothing
  Tensor biases;  // [adapters, out]: what each adds to the site's own bias; undefined for nothing
};

// One delta that is being trained, alone. It is asked anew in every forward pass, so that each pass has a graph of its
// own and sees what the last step wrote.
struct Trained {
  std::shared_ptr<const Delta> delta;
  double strength = 0;
  Tensor base;  // the site's weight without what is fused
};

using Applied = std::variant<ForAll, PerImage, Trained>;

// The layer's output for x with everything that applies: the only places where a weight meets an input.
Tensor linear(const Site& site, const Placed& x);       // x [..., in] → [..., out]
Tensor conv2d(const Site& site, const Tensor& x);       // x [N, in, H, W] → [N, out, H', W']
Tensor embedding(const Site& site, const Placed& ids);  // int64 [N, …] → [N, …, dim]
// The weight and bias that a norm uses in this run.
std::pair<const Tensor&, const Tensor&> norm_weights(const Site& site);

}  // namespace lora
