#pragma once
// Changes of the weight that are a product of their own kind (LoHa, LoKr, GLoRA): as two factors of low rank where
// those are smaller than the weight, else as a weight that is made whenever it is asked for.
#include "kinds/kind.h"

namespace lora {

class ProductDelta : public Delta {
 public:
  struct Form {
    const char* algorithm;
    LayerTensors tensors;  // canonical suffixes, as in the file
    int64_t rank = 0;
    Strength strength;
    // The change without the scale, [out, in·kh·kw] float32. `base` is the site's base weight.
    Tensor (*dense)(const LayerTensors& tensors, const Tensor& base);
    // Matrices [out, R] and [R, in·kh·kw] whose product is the same; undefined where no short ones are known.
    Tensor up, down;
  };
  // The tensors are kept in the site's dtype and on its device. Throws Error{bad_shape} where the change is not of the
  // site's size.
  ProductDelta(Form form, const Site& site, const std::string& label);

  const char* algorithm() const override { return form_.algorithm; }
  int64_t rank() const override { return form_.rank; }
  double alpha() const override { return form_.strength.alpha; }
  double scale() const override { return form_.strength.scale; }
  Device device() const override { return form_.tensors.begin()->second.device(); }
  bool is_dense() const override { return !form_.up.defined(); }
  Effect effect(double strength, const Tensor& base) const override;
  LayerTensors tensors() const override { return form_.tensors; }
  std::shared_ptr<const Delta> to(Device device, Dtype dtype) const override;

 private:
  Form form_;                   // up and down in the shapes of the site's factors
  std::vector<int64_t> shape_;  // of the site's weight
};

// The form's change without a site: as factors where it has short ones, else dense.
Effect change_of(const ProductDelta::Form& form);

// Throws Error{unsupported} for sites without a matrix.
void check_matrix(const Site& site, const char* algorithm, const std::string& label);

// A tensor as a float32 matrix [first dimension, the rest].
Tensor float_matrix(const Tensor& t);
// A convolution's core [a, b, kh, kw] with its right factor [b, in]: Σ core[a, b, …] right[b, i] as [a, in·kh·kw],
// float32.
Tensor with_core(const Tensor& core, const Tensor& right);

}  // namespace lora
