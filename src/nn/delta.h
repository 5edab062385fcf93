#pragma once
// What one adapter adds at one site. Layers, fusing and saving speak to this interface and never ask which algorithm it
// is; each algorithm is one file under deltas/.
#include <memory>

#include "nn/site.h"

namespace lora {

// ΔW = scale · B A, with A [r, in] or [r, in, kh, kw] and B [out, r] or [out, r, 1, 1].
struct LowRank {
  Tensor A, B;
  double scale = 1;
  int64_t rank() const { return A.size(0); }
};

class Delta {
 public:
  virtual ~Delta() = default;

  virtual const char* algorithm() const = 0;  // "lora", …
  virtual int64_t rank() const = 0;
  virtual double alpha() const = 0;

  // The factors, where k·ΔW is their product for every strength k and no W enters; else nullptr.
  virtual const LowRank* low_rank() const { return nullptr; }

  // The tensors under the canonical suffixes ("lora_A.weight", …), alpha not among them.
  virtual StateDict tensors() const = 0;
  // The same delta elsewhere or in another dtype; shares the tensors where nothing changes.
  virtual std::shared_ptr<const Delta> to(Device device, Dtype dtype) const = 0;
};

}  // namespace lora
