#pragma once
// Changes of the weight that are a product of their own kind (LoHa, LoKr, GLoRA): as two factors of low rank where
// those are smaller than the weight, else as a weight that is made whenever it is asked for.
#include "nn/delta.h"

namespace lora {

// How strongly a layer's numbers act, as its file has it.
struct Strength {
  double alpha = 0;  // the rank where the file has none
  double scale = 1;
};

class ProductDelta : public Delta {
 public:
  struct Form {
    const char* algorithm;
    StateDict tensors;  // canonical suffixes, as in the file
    int64_t rank = 0;
    Strength strength;
    std::vector<int64_t> shape;  // of the site's weight
    // The change without the scale, [out, in·kh·kw] float32. `base` is the site's base weight.
    Tensor (*dense)(const StateDict& tensors, const Tensor& base);
    // Matrices [out, R] and [R, in·kh·kw] whose product is the same; undefined where no short ones are known.
    Tensor up, down;
  };
  // The factors are kept in `dtype` on the site's device, the rest of the tensors as they are there.
  ProductDelta(Form form, Device device, Dtype dtype);

  const char* algorithm() const override { return form_.algorithm; }
  int64_t rank() const override { return form_.rank; }
  double alpha() const override { return form_.strength.alpha; }
  double scale() const override { return form_.strength.scale; }
  Device device() const override { return form_.tensors.begin()->second.device(); }
  bool is_dense() const override { return !form_.up.defined(); }
  Effect effect(double strength, const Tensor& base) const override;
  StateDict tensors() const override { return form_.tensors; }
  std::shared_ptr<const Delta> to(Device device, Dtype dtype) const override;

 private:
  Form form_;  // up and down in the shapes of the site's factors
};

// Throws Error{bad_shape} where the product is not of the site's size, `rows` × `columns` being what it is.
void check_product(const Site& site, int64_t rows, int64_t columns, const std::string& label);
// Throws Error{unsupported} for sites without a matrix.
void check_matrix(const Site& site, const char* algorithm, const std::string& label);

// A tensor as a float32 matrix [first dimension, the rest].
Tensor float_matrix(const Tensor& t);

}  // namespace lora
