#pragma once
// All kinds, and what is asked of a layer without knowing its kind.
#include "kinds/kind.h"

namespace lora {

const std::vector<const Kind*>& kinds();
const std::vector<const Addition*>& additions();
// Adds a kind, which must live as long as the process. Before any other call of the library: the tables of names are
// made once.
void add_kind(const Kind& kind);

// The kind of a layer with these tensors; nullptr for none.
const Kind* kind_of(const LayerTensors& tensors);
// The family that has a canonical suffix; nullptr for none.
const TensorFamily* family_of(std::string_view suffix);

// ---- Names ----------------------------------------------------------------------------------------------------------

inline constexpr std::string_view kAlpha = "alpha", kScale = "scale";  // strengths, which every kind may have

// "down_blocks.0.conv1.lora_A.weight" is "down_blocks.0.conv1" and "lora_A.weight", strengths among the suffixes. An
// empty suffix where the key ends as no tensor of an adapter.
std::pair<std::string_view, std::string_view> split_key(std::string_view key);
// Takes the end of a key off, as kohya's sd-scripts, LyCORIS, OneTrainer and A1111 write it. Our name for it, or "".
std::string_view take_kohya_end(std::string_view& key);
// As PEFT writes it, an adapter's name inside or not: "….lora_A.weight", "….lora_A.default.weight".
std::string_view take_peft_end(std::string_view& key);
// Whether a key ends as a tensor of an adapter alone, in any of these spellings.
bool is_adapter_key(std::string_view key);
// The first row of a canonical suffix; nullptr for none.
const TensorName* name_row(std::string_view suffix);
// Whether a layer is an embedding by its name, whose weight has a row for each word.
bool is_embedding_path(const std::string& path);
// How PEFT ends the key of a tensor of the layer at `path`. An embedding's factors have names of their own.
std::string peft_end(const std::string& path, std::string_view suffix);

// ---- One layer ------------------------------------------------------------------------------------------------------

// "DoRA", "LoRA with biases", "LoHa with DoRA"; "half a pair" where a tensor is missing, "nothing" for no kind.
std::string kind_name(const LayerTensors& tensors);
// What a layer lacks, or "": one half of a pair, a magnitude with nothing that it is of.
std::string missing_of(const LayerTensors& tensors);
bool depends_on_base(const LayerTensors& tensors);
int64_t rank_of(const LayerTensors& tensors);
WeightSize size_of(const LayerTensors& tensors);
int row_dim_of(const LayerTensors& tensors, std::string_view suffix, const std::string& label);
Factors factors_of(const LayerTensors& tensors);

// The number of the file that says how strong the layer is.
struct CountedStrength {
  std::string_view name;  // kAlpha or kScale
  double value;
  bool is_usable() const;  // whether it is finite, also in float32
};
// Nothing if the file has none, or if the kind counts none that it has.
std::optional<CountedStrength> counted_strength(const LoraLayer& layer);

// The delta at a site, whole. Throws Error{bad_shape}, Error{unsupported} for tensors of two kinds and for what the
// site cannot have.
std::shared_ptr<const Delta> make_delta(const LoraLayer& layer, const Site& site, const MakeOptions& options);
// Kind::change; nothing where a tensor is missing.
Effect change_of(const LoraLayer& layer);

// The layer as kohya's family, or PEFT, holds the same.
LoraLayer as_kohya(LoraLayer layer);
LoraLayer as_peft(LoraLayer layer);

// ---- Parts of fused layers ------------------------------------------------------------------------------------------

// Kind::cut and so on. A layer of no kind is cut as its tensors' families say.
LoraLayer cut(const LoraLayer& whole, RowSlice slice, const std::string& label);
LoraLayer with_halves_swapped(const LoraLayer& layer, const std::string& label);
// Parts of the same kind, in the order of their rows. Throws Error{unsupported} where one adapter cannot say what the
// parts do.
LoraLayer join(const std::vector<SlicedLayer>& parts, const std::string& label);
// One tensor of all parts along `dim`, with zeros for rows that none has.
Tensor joined_rows(const std::vector<std::pair<RowSlice, Tensor>>& parts, int dim);
bool cover_all_rows(const std::vector<SlicedLayer>& parts);

}  // namespace lora
