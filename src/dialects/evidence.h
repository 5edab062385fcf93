#pragma once
// What a file's layers say for and against the base models.
#include <string>
#include <vector>

#include "dialects/base_model_of.h"
#include "names/base_model.h"

namespace lora {

// A layer with its name in the form that pieces have (names/base_model.h).
struct NamedTrace : LayerTrace {
  explicit NamedTrace(const LayerTrace& layer);
  std::string flat;
};
using NamedTraces = std::vector<NamedTrace>;

bool has_any_piece(const NamedTrace& layer, std::span<const std::string_view> pieces);
// Whether a layer is in a list of blocks that some model's transformer has.
bool is_in_block_list(const std::string& path);
// Whether something of the layers speaks against a model.
bool contradicts(const NamedTraces& layers, const BaseModelRow& row);
// Whether a file for a model can look like one for `other`, and is then taken for that (Evidence::alike).
bool can_be_taken_for(BaseModel model, BaseModel other);

struct Candidates {
  std::vector<BaseModel> models;  // of several, the one that such a file is taken for comes first
  bool by_marks = false;          // by names that no other model has
};
// Of the models that are told by their layers, those that these layers speak for and not against.
Candidates candidates_among(const NamedTraces& layers);

}  // namespace lora
