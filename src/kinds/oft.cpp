// OFT (Qiu et al. 2023, arXiv:2306.07280) and its kin: W turned by orthogonal matrices that are blocks on a diagonal.
#include <ATen/ATen.h>

#include <cmath>

#include "core/check.h"
#include "kinds/builtin.h"

namespace lora {

namespace {

constexpr std::string_view kBlocks = "oft_blocks", kRescale = "rescale";             // kohya's and LyCORIS'
constexpr std::string_view kVectors = "oft_R.weight", kScaled = "oft_R.scaled_oft";  // PEFT's and OneTrainer's

// clang-format off
constexpr TensorName kNames[] = {
    {kBlocks, ".oft_blocks", ""},
    {kRescale, ".rescale", ""},
    {kVectors, ".oft_R.weight", ".oft_R"},
    {.ours = kScaled, .kohya = ".oft_R.scaled_oft", .peft = ".oft_R.scaled_oft", .is_factor = false},
};
// clang-format on

class OftDelta : public Delta {
 public:
  enum class Turns {
    rows,             // kohya's OFT and LyCORIS' Diag-OFT: W'ₖ = Rₖᵀ Wₖ for blocks of rows
    butterfly,        // BOFT (Liu et al. 2023, arXiv:2311.06243): stages of blocks over interleaved rows
    columns,          // OFT v2 of PEFT and OneTrainer: W' = W diag(R)ᵀ, the input being turned
    columns_inverse,  // OneTrainer's convolutions: W' = W diag(R)
  };
  struct Form {
    LayerTensors tensors;  // as in the file
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
  LayerTensors tensors() const override { return form_.tensors; }
  std::string beyond_tensors() const override { return form_.beyond_tensors; }
  std::shared_ptr<const Delta> to(Device device, Dtype dtype) const override;

 private:
  Form form_;  // R − I in the place of R
};

// How the matrices of OFT v2 are made of its vectors.
struct CayleyOptions {
  bool neumann = true;  // by the first terms of the series; otherwise exactly, which is the inverse turn
  int64_t terms = 5;
  double coft_eps = 0;                // PEFT's COFT: the norm of each Q is at most this over √blocks; 0 for no limit
  bool inverse_convolutions = false;  // OneTrainer's
};

Tensor identity(const Tensor& like) { return at::eye(like.size(-1), like.options()); }

// (I + Q)(I − Q)⁻¹, in float64: I − Q may be far from I.
Tensor cayley(const Tensor& Q) {
  auto wide = Q.to(at::kDouble);
  auto I = identity(wide);
  return at::linalg_solve(I - wide, I + wide, /*left=*/false).to(at::kFloat);
}

Tensor limited(const Tensor& Q, double limit) {
  auto norm = Q.norm().item<double>() + 1e-8;
  return limit > 0 && norm > limit ? Q * (limit / norm) : Q;
}

// The size b of a matrix whose strict upper triangle has n = b (b − 1) / 2 numbers; 0 where no b has.
int64_t size_of_block(int64_t n) {
  auto b = static_cast<int64_t>(std::llround((1 + std::sqrt(1.0 + 8.0 * double(n))) / 2));
  return b * (b - 1) / 2 == n ? b : 0;
}

// Q's upper triangles, row by row, as Q.
Tensor skew(const Tensor& vectors, int64_t b) {
  auto Q = at::zeros({vectors.size(0), b, b}, vectors.options());
  auto triangle = at::triu_indices(b, b, 1, at::TensorOptions(at::kLong).device(vectors.device()));
  Q.index_put_({at::indexing::Slice(), triangle[0], triangle[1]}, vectors);
  return Q - Q.transpose(1, 2);
}

// PEFT's COFT projects before every step, so that what was saved after the last one may lie outside. The norm of Q is
// that of its upper triangle, twice over.
Tensor near_identity(const Tensor& vectors, double eps) {
  auto norms = vectors.norm(2, 1, /*keepdim=*/true) * std::sqrt(2.0);
  return vectors * (eps / std::sqrt(double(vectors.size(0))) / norms).clamp_max(1);
}

// The first terms of the series of (I + Q)(I − Q)⁻¹ = I + 2 Q + 2 Q² + …, the last power taken once, as PEFT counts
// them: Q and Q² stand for two terms and one more power follows.
Tensor neumann(const Tensor& Q, int64_t terms) {
  auto R = identity(Q).expand_as(Q).clone();
  if (terms > 1) R += 2 * Q;
  if (terms <= 2) return R;
  auto power = at::bmm(Q, Q);
  R += 2 * power;
  for (int64_t i = 3; i < terms - 1; ++i) R += 2 * (power = at::bmm(power, Q));
  return R + at::bmm(power, Q);
}

// One stage of a butterfly: in each group of 2k rows, every row meets those that stand k behind it.
Tensor stage(const Tensor& W, const Tensor& turn, double strength, int64_t i) {
  auto b = turn.size(-1), k = (int64_t(1) << i) * (b / 2), columns = W.size(1);
  auto met = W.view({-1, 2, k, columns}).transpose(1, 2).reshape({-1, b, columns});
  auto turned = at::baddbmm(met, turn, met, 1, strength);
  return turned.view({-1, k, 2, columns}).transpose(1, 2).reshape({W.size(0), columns});
}

OftDelta::OftDelta(const Site& site, Form form, const std::string& label) : form_(std::move(form)) {
  check(site.kind == SiteKind::linear || site.kind == SiteKind::conv2d, ErrorKind::unsupported,
        "{}: {} on a layer that is neither linear nor a convolution", label, algorithm());
  auto out = site.weight.size(0), in = site.weight.numel() / out;
  auto b = form_.R.size(-1), blocks = form_.R.size(-3);
  bool rows = form_.turns == Turns::rows || form_.turns == Turns::butterfly;
  check(b > 0, ErrorKind::bad_shape, "{}: blocks of size 0", label);
  bool fits = rows ? blocks * b == out : in % b == 0 && (blocks == 1 || blocks * b == in);
  check(fits, ErrorKind::bad_shape, "{}: {} blocks of {} do not turn the {} of a layer {}", label, blocks, b,
        rows ? "outputs" : "inputs", size_text(site.weight));
  if (form_.turns == Turns::butterfly) {
    auto widest = form_.R.size(0) < 32 ? (int64_t(1) << (form_.R.size(0) - 1)) * b : out + 1;
    check(b % 2 == 0 && out % widest == 0, ErrorKind::bad_shape,
          "{}: a butterfly of {} stages over blocks of {} does not go over {} outputs", label, form_.R.size(0), b, out);
  }
  check(!form_.rescale.defined() || form_.rescale.numel() == out, ErrorKind::bad_shape,
        "{}: rescale has {} factors for {} outputs", label, form_.rescale.defined() ? form_.rescale.numel() : 0, out);
  auto device = site.weight.device();
  form_.R = (form_.R - identity(form_.R)).to(device);
  if (form_.rescale.defined()) form_.rescale = form_.rescale.reshape(-1).to(device, at::kFloat);
}

Effect OftDelta::effect(double strength, const Tensor& base) const {
  auto W = base.flatten(1).to(at::kFloat);
  auto out = W.size(0), in = W.size(1), b = form_.R.size(-1);
  auto turned = W;
  switch (form_.turns) {
    case Turns::rows: {
      auto blocks = W.view({-1, b, in});
      turned = at::baddbmm(blocks, form_.R.transpose(1, 2), blocks, 1, strength).view({out, in});
      break;
    }
    case Turns::butterfly:
      for (int64_t i = 0; i < form_.R.size(0); ++i) turned = stage(turned, form_.R[i], strength, i);
      break;
    case Turns::columns:
    case Turns::columns_inverse: {
      auto blocks = W.view({out, -1, b}).transpose(0, 1);  // [blocks, out, b]
      auto R = form_.turns == Turns::columns ? form_.R.transpose(1, 2) : form_.R;
      turned = at::baddbmm(blocks, blocks, R.expand({blocks.size(0), b, b}), 1, strength);
      turned = turned.transpose(0, 1).reshape({out, in});
      break;
    }
  }
  if (form_.rescale.defined()) turned = turned * (strength * (form_.rescale - 1) + 1).unsqueeze(1);
  return {.weight = (turned - W).view(base.sizes())};
}

std::shared_ptr<const Delta> OftDelta::to(Device device, Dtype) const {
  auto moved = std::make_shared<OftDelta>(*this);
  moved->form_.R = form_.R.to(device);
  if (form_.rescale.defined()) moved->form_.rescale = form_.rescale.to(device);
  return moved;
}

// From oft_blocks ([n, b, b], or BOFT's [m, n, b, b]) and rescale. R = (I + Q)(I − Q)⁻¹ with Q = T − Tᵀ, whose norm
// over all blocks is limited to alpha · out where alpha is positive.
std::shared_ptr<const Delta> make_oft(const Site& site, const LayerTensors& tensors, double alpha,
                                      const std::string& label) {
  auto T = get(tensors, kBlocks);
  check((T.dim() == 3 || T.dim() == 4) && T.size(-1) == T.size(-2), ErrorKind::bad_shape,
        "{}: oft_blocks has shape {}; blocks [n, b, b] or [m, n, b, b] are wanted", label, c10::str(T.sizes()));
  auto wide = T.to(at::kFloat);
  auto Q = limited(wide - wide.transpose(-2, -1), alpha * double(site.weight.size(0)));
  OftDelta::Form form{.tensors = tensors,
                      .turns = T.dim() == 4 ? OftDelta::Turns::butterfly : OftDelta::Turns::rows,
                      .R = cayley(Q),
                      .rescale = get(tensors, kRescale),
                      .alpha = alpha};
  return std::make_shared<OftDelta>(site, std::move(form), label);
}

// From oft_R.weight ([n or 1, b (b − 1) / 2]: the upper triangle of Q) and oft_R.scaled_oft.
std::shared_ptr<const Delta> make_oft_v2(const Site& site, const LayerTensors& tensors, const CayleyOptions& options,
                                         const std::string& label) {
  auto given = get(tensors, kVectors);
  check(given.dim() == 2, ErrorKind::bad_shape, "{}: oft_R has shape {}; [blocks, b (b − 1) / 2] is wanted", label,
        c10::str(given.sizes()));
  auto b = size_of_block(given.size(1));
  check(b > 0, ErrorKind::bad_shape, "{}: oft_R has {} numbers a block, which is no b (b − 1) / 2", label,
        given.size(1));
  auto vectors = options.coft_eps > 0 ? near_identity(given.to(at::kFloat), options.coft_eps) : given.to(at::kFloat);
  auto Q = skew(vectors, b);
  if (tensors.contains(kScaled)) Q = Q / (2 * std::sqrt(double(b - 1)));
  bool inverse = options.inverse_convolutions && site.kind == SiteKind::conv2d;
  auto kept = tensors;
  if (options.coft_eps > 0) kept[std::string(kVectors)] = vectors;
  OftDelta::Form form{.tensors = std::move(kept),
                      .turns = inverse ? OftDelta::Turns::columns_inverse : OftDelta::Turns::columns,
                      .R = options.neumann ? neumann(Q, options.terms) : cayley(-Q),
                      .rescale = {},
                      .beyond_tensors = inverse ? "that OneTrainer turned a convolution"
                                        : !options.neumann || options.terms != 5 ? "use_cayley_neumann and its terms"
                                                                                 : ""};
  return std::make_shared<OftDelta>(site, std::move(form), label);
}

class Oft final : public Kind {
 public:
  std::span<const TensorName> names() const override { return kNames; }
  std::string_view name() const override { return "OFT"; }
  std::string full_name(const LayerTensors& t) const override {
    auto blocks = get(t, kBlocks);
    return blocks.defined() && blocks.dim() == 4 ? "BOFT" : "OFT";
  }
  std::string missing(const LayerTensors& t) const override {
    if (t.contains(kBlocks) || t.contains(kVectors)) return "";
    return t.contains(kRescale) ? "no oft_blocks" : "no oft_R.weight";
  }
  WeightSize size(const LayerTensors& t) const override {
    auto blocks = get(t, kBlocks);
    return blocks.defined() && blocks.dim() == 3 ? WeightSize{blocks.size(0) * blocks.size(1), 0, {}} : WeightSize();
  }
  bool depends_on_base() const override { return true; }
  bool has_strength() const override { return false; }
  bool counts_alpha(const LayerTensors& t) const override { return t.contains(kBlocks); }
  int row_dim(const LayerTensors&, std::string_view suffix, const std::string&) const override {
    return suffix == kBlocks || suffix == kRescale ? 0 : -1;
  }
  bool zero_is_none(std::string_view suffix) const override { return suffix != kRescale; }

  std::shared_ptr<const Delta> make(const LoraLayer& layer, const Site& site, const MakeOptions& o) const override {
    check(!layer.tensors.contains(kBlocks) || !layer.tensors.contains(kVectors), ErrorKind::unsupported,
          "{}: tensors of two kinds, {} and {}", o.label, kBlocks, kVectors);
    if (layer.tensors.contains(kBlocks)) return make_oft(site, layer.tensors, layer.alpha.value_or(0), o.label);
    auto setting = [&](const char* name, double otherwise) {
      auto it = layer.settings.find(name);
      return it == layer.settings.end() ? otherwise : it->second;
    };
    const CayleyOptions standard;
    return make_oft_v2(site, layer.tensors,
                       {.neumann = setting("use_cayley_neumann", standard.neumann) != 0,
                        .terms = int64_t(setting("num_cayley_neumann_terms", double(standard.terms))),
                        .coft_eps = setting("eps", standard.coft_eps),
                        .inverse_convolutions = setting("inverse_convolutions", 0) != 0},
                       o.label);
  }

  LoraLayer cut(const LoraLayer& whole, RowSlice slice, const std::string& label) const override {
    return Kind::cut(unlimited(whole, label), slice, label);
  }
  LoraLayer with_halves_swapped(const LoraLayer& layer, const std::string& label) const override {
    return Kind::with_halves_swapped(unlimited(layer, label), label);
  }

  // The names of kohya's family mean OFT as OneTrainer trains it.
  void to_kohya(LoraLayer& layer) const override {
    for (const char* name : {"use_cayley_neumann", "num_cayley_neumann_terms", "eps"})
      check(!layer.settings.contains(name), ErrorKind::unsupported,
            "its rotations are made in another way than can be said there: use_cayley_neumann with 5 terms, without "
            "COFT");
  }

 private:
  // Rotations are limited by a norm over all blocks, which parts no longer see: the limit is applied here.
  LoraLayer unlimited(const LoraLayer& layer, const std::string& label) const {
    auto blocks = get(layer.tensors, kBlocks);
    if (!blocks.defined()) return layer;
    check(blocks.dim() == 3, ErrorKind::unsupported,
          "{}: a butterfly rotation (BOFT) of q, k and v together cannot be given to them one by one", label);
    auto free = layer;
    auto limit = layer.alpha.value_or(0) * double(size(layer.tensors).rows);
    free.alpha = 0;  // no limit any more
    if (limit <= 0) return free;
    auto wide = blocks.to(at::kFloat);
    auto norm = (wide - wide.transpose(1, 2)).norm().item<double>();
    if (norm > limit) free.tensors[std::string(kBlocks)] = wide * (limit / norm);
    return free;
  }
};

}  // namespace

const Kind& oft_kind() {
  static const Oft kind;
  return kind;
}

}  // namespace lora
