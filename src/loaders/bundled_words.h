#pragma once
// The embeddings of a LoRA's file as words of a text encoder.
#include "adapters/state.h"
#include "lora/added_word.h"
#include "lora/lora_file.h"

namespace lora {

// Those for one component, each [vectors, dim] in the encoder's dtype and on its device. Throws Error{bad_shape} where
// the vectors are another encoder's.
std::map<std::string, Tensor> words_for(const std::string& component, const Parts& parts, const LoraFile& file,
                                        LoadReport& report);

// All words of a component's adapters, but `replaced`'s, with these beside them; of the ids their number counts. Throws
// Error{conflict} where an adapter has one of them with other vectors.
std::vector<AddedWord> beside_loaded(const std::map<std::string, Tensor>& words, const AdapterState& state,
                                     size_t component, const std::string& replaced, const std::string& source);

}  // namespace lora
