#pragma once
// OFT (Qiu et al. 2023, arXiv:2306.07280) and its kin: W turned by orthogonal matrices that are blocks on a diagonal.
#include "nn/delta.h"

namespace lora {

class OftDelta : public Delta {
 public:
  enum class Turns {
    rows,             // kohya's OFT and LyCORIS' Diag-OFT: W'ₖ = Rₖᵀ Wₖ for blocks of rows
    butterfly,        // BOFT (Liu et al. 2023, arXiv:2311.06243): stages of blocks over interleaved rows
    columns,          // OFT v2 of PEFT and OneTrainer: W' = W diag(R)ᵀ, the input being turned
    columns_inverse,  // OneTrainer's convolutions: W' = W diag(R)
  };
  struct Form {
    StateDict tensors;  // as in the file
    Turns turns;
    Tensor R;  // [blocks, b, b], a butterfly's [stages, blocks, b, b]; one block of columns stands for all. float32
    Tensor rescale;  // [out] float32, a factor of the rows; undefined for 1
    double alpha = 0;
    std::string beyond_tensors;  // what else tells how R is made: a setting of PEFT's, a trainer; "" for nothing
  };
  // Throws Error{bad_shape} where the blocks are not the site's rows or columns.
  OftDelta(const Site& site, Form form, const std::string& label);

  const char* algorithm() const override { return form_.turns == Turns::butterfly ? "boft" : "oft"; }
  int64_t rank() const override { return 0; }
  double alpha() const override { return form_.alpha; }
  double scale() const override { return 1; }
  Device device() const override { return form_.R.device(); }
  bool is_dense() const override { return true; }
  // A strength s turns by I + s (R − I), and rescales by 1 + s (rescale − 1).
  Effect effect(double strength, const Tensor& base) const override;
  // Throws Error{unsupported} where the tensors alone do not tell how R is made of them.
  StateDict tensors() const override;
  std::shared_ptr<const Delta> to(Device device, Dtype dtype) const override;

 private:
  Form form_;  // R − I in the place of R
};

// From oft_blocks ([n, b, b], or BOFT's [m, n, b, b]) and rescale. R = (I + Q)(I − Q)⁻¹ with Q = T − Tᵀ, whose norm
// over all blocks is limited to alpha · out where alpha is positive.
std::shared_ptr<const Delta> make_oft(const Site& site, const StateDict& tensors, double alpha,
                                      const std::string& label);

// How the matrices of OFT v2 are made of its vectors.
struct CayleyOptions {
  bool neumann = true;  // by the first terms of the series; otherwise exactly, which is the inverse turn
  int64_t terms = 5;
  double coft_eps = 0;                // PEFT's COFT: the norm of each Q is at most this over √blocks; 0 for no limit
  bool inverse_convolutions = false;  // OneTrainer's
};

// From oft_R.weight ([n or 1, b (b − 1) / 2]: the upper triangle of Q) and oft_R.scaled_oft.
std::shared_ptr<const Delta> make_oft_v2(const Site& site, const StateDict& tensors, const CayleyOptions& options,
                                         const std::string& label);

}  // namespace lora
