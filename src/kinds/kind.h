#pragma once
// A kind of adapter (LoRA, LoHa, OFT, …) is one file of this folder. It says which tensors a layer of the kind has,
// what each is called in files, what delta they make, and what other forms they can take. All other code asks the kind,
// and never a tensor's suffix.
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lora/lora_file.h"
#include "names/row_slice.h"
#include "nn/delta.h"

namespace lora {

// One tensor that a layer may have. Rows of one name are several spellings of it: the first one is written.
struct TensorName {
  std::string_view ours;   // the canonical suffix: "lora_A.weight"
  std::string_view kohya;  // how sd-scripts, LyCORIS and ComfyUI end the key: ".lora_down.weight"; "" where they cannot
  std::string_view peft;   // how PEFT does, without a last ".weight": ".lora_A"; "" where it cannot
  bool in_lora_files = false;       // diffusers' and PEFT's files of plain LoRA have it
  std::string_view peft_flag = "";  // what PEFT's LoraConfig sets to true for it
  // The tensor without which it is no adapter's, and what it is then; "" where it stands alone.
  std::string_view only_beside = "", otherwise = "";
  bool is_factor = true;  // false: it may have any dtype, such as a flag or a number of rows
};

// A layer that is some rows of another.
struct SlicedLayer {
  RowSlice rows;
  LoraLayer layer;
};

// The weight that a layer is for, as far as its tensors tell.
struct WeightSize {
  int64_t rows = 0, columns = 0;  // columns: inputs times the kernel; 0 where they do not tell
  std::vector<int64_t> kernel;    // a convolution's height and width
};

// How two factors, B A, can stand in for a layer.
enum class Factors { exactly, with_core_folded, nearly, with_base_only, never };

struct MakeOptions {
  // A site's weight and bias without what is fused; called from several threads.
  std::function<Tensor(const Site&)> base, base_bias;
  std::string label;  // the layer, for messages
};

// Tensors that belong together. What is asked of a layer's tensor is asked of the family that has its name.
// Threads: all calls are const and may run at once.
class TensorFamily {
 public:
  virtual ~TensorFamily() = default;

  virtual std::span<const TensorName> names() const = 0;
  bool has_any(const LayerTensors& tensors) const;
  // The dimension along which a tensor counts the layer's rows; -1 for what all rows share. Throws Error{unsupported}
  // for a tensor that cannot be cut by rows.
  virtual int row_dim(const LayerTensors&, std::string_view /*suffix*/, const std::string& /*label*/) const {
    return -1;
  }
  // Whether rows without this tensor are rows where it is zero.
  virtual bool zero_is_none(std::string_view /*suffix*/) const { return true; }
  // How kohya's family ends the key; "" where it cannot say it.
  virtual std::string_view kohya_end(const LayerTensors&, std::string_view suffix) const;
  // The layer in the form in which kohya's family, or PEFT, holds the same.
  virtual void to_kohya(LoraLayer&) const {}
  virtual void to_peft(LoraLayer&) const {}
  // What messages call a layer that diffusers' and PEFT's files cannot hold because of this tensor.
  virtual std::string_view spoken(std::string_view suffix) const = 0;
};

class Kind : public TensorFamily {
 public:
  virtual std::string_view name() const = 0;  // "LoHa"
  // With what varies: "LoRA with biases", "BOFT".
  virtual std::string full_name(const LayerTensors&) const { return std::string(name()); }
  virtual std::string name_with_dora(const LayerTensors& t) const { return full_name(t) + " with DoRA"; }
  std::string_view spoken(std::string_view) const override { return name(); }

  // Whether a layer with these tensors is of this kind, whole or broken.
  virtual bool is(const LayerTensors& tensors) const { return has_any(tensors); }
  // What the layer lacks, "no hada_w1_b"; "" for nothing.
  virtual std::string missing(const LayerTensors&) const = 0;

  virtual int64_t rank(const LayerTensors&) const { return 0; }
  virtual WeightSize size(const LayerTensors&) const { return {}; }
  // Whether it changes a weight by what that weight is.
  virtual bool depends_on_base() const { return false; }
  // Whether the lora_alpha of PEFT's config says how strong its layers are.
  virtual bool has_strength() const { return true; }
  // Whether a layer's alpha says how strong it is, or how, if the layer has no scale.
  virtual bool counts_alpha(const LayerTensors& tensors) const { return has_strength() && rank(tensors) > 0; }
  // Whether the delta that it makes has the layer's difference of the bias in it.
  virtual bool has_own_bias() const { return false; }

  // The delta at a site, in the site's dtype and on its device, without additions. Throws Error{bad_shape,
  // unsupported}.
  virtual std::shared_ptr<const Delta> make(const LoraLayer&, const Site&, const MakeOptions&) const = 0;
  // What it adds at strength 1, as matrices [rows, columns] in float32. Of a kind that depends on the base: nothing.
  // Throws Error{bad_shape}.
  virtual Effect change(const LoraLayer&) const { return {}; }

  virtual Factors factors(const LayerTensors&) const {
    return depends_on_base() ? Factors::with_base_only : Factors::nearly;
  }
  // Where factors() says with_core_folded: the layer without the core, what is computed in float32; and the same with
  // tensors of the file's dtype that have sizes alone.
  virtual LoraLayer folded(const LoraLayer& layer) const { return layer; }
  virtual LoraLayer folded_sizes(const LoraLayer& layer) const { return layer; }
  // The tensors that the change is a product of. If one is multiplied by a number and another divided by it, the change
  // stays the same. Empty for a kind without such tensors.
  virtual std::span<const std::string_view> multiplied() const { return {}; }

  // A fused layer's adapter, cut by rows, with the halves of its rows swapped, and put together again. Where the
  // numbers allow it, nothing is computed: parts are views.
  virtual LoraLayer cut(const LoraLayer&, RowSlice, const std::string& label) const;
  virtual LoraLayer with_halves_swapped(const LoraLayer&, const std::string& label) const;
  // The block of a part's factors that alone reaches its rows, of `count` parts that were trained apart and stored as
  // one. The part is number `index` of them, whatever its share of the rows is. Nothing where the factors do not stand
  // in blocks.
  virtual std::optional<LoraLayer> own_block(const LoraLayer& /*part*/, int /*index*/, int /*count*/) const {
    return std::nullopt;
  }
  // Whether what is about inputs is the same in all of them.
  virtual bool same_inputs(const std::vector<SlicedLayer>& parts) const;
  // Parts in the order of their rows. Rows that no part has are zero.
  virtual LoraLayer join(const std::vector<SlicedLayer>& parts, bool same_inputs, const std::string& label) const;
};

// What may stand beside a kind in one layer: a magnitude (DoRA), a difference of the bias.
class Addition : public TensorFamily {
 public:
  virtual std::string full_name(const Kind& kind, const LayerTensors& tensors) const { return kind.full_name(tensors); }
  virtual bool depends_on_base() const { return false; }
  virtual Factors factors(Factors of_kind, const LayerTensors&) const { return of_kind; }
  virtual std::shared_ptr<const Delta> around(std::shared_ptr<const Delta> delta, const Kind&, const LoraLayer&,
                                              const Site&, const MakeOptions&) const = 0;
};

// How strongly a layer of that rank acts.
struct Strength {
  double alpha = 0;  // the rank where the file has none
  double scale = 1;
};
Strength strength_of(const LoraLayer& layer, int64_t rank);

// A tensor of a layer; undefined where it has none of that name.
Tensor get(const LayerTensors& tensors, std::string_view suffix);
// The number in a tensor of one.
double number(const Tensor& t);
// "no <the last of these that is missing>" where some are there and some are not; "" otherwise.
std::string missing_among(const LayerTensors& tensors, std::initializer_list<std::string_view> all);
// A size of a layer's tensor, or 0 where it has none of that name.
int64_t size_of(const LayerTensors& tensors, std::string_view suffix, int64_t dim);
// A tensor's numbers in each of its first dimension, or 0 where the layer has none of that name.
int64_t columns_of(const LayerTensors& tensors, std::string_view suffix);
// A weight's size for messages: "9 → 8", of a convolution "9 → 8 with a 3×3 kernel". `columns`: inputs times the
// kernel.
std::string size_text(int64_t rows, int64_t columns, std::span<const int64_t> kernel);
std::string size_text(const Tensor& weight);
// What Kind does where the kind has no way of its own.
LoraLayer cut_rows(const LoraLayer& layer, RowSlice slice, const std::string& label);
LoraLayer swap_halves(const LoraLayer& layer, const std::string& label);
bool have_same_inputs(const std::vector<SlicedLayer>& parts);
LoraLayer join_rows(const std::vector<SlicedLayer>& parts, bool same_inputs, const std::string& label);
// Rows [from, to) of n. Throws Error{bad_shape} where n is no multiple of the parts.
std::pair<int64_t, int64_t> rows_of(int64_t n, RowSlice slice, const std::string& label);

}  // namespace lora
