#pragma once
// The embeddings of a LoRA's file as words of a text encoder.
#include "adapters/registry.h"
#include "lora/added_word.h"
#include "lora/lora_file.h"

namespace lora {

// The vectors of an embedding for a text encoder, [vectors, dim] in its dtype and on its device. Throws
// Error{bad_shape} where they are another encoder's. `source` is the file, for messages.
Tensor rows_for(const BundledEmbedding& embedding, const AdapterRegistry::Component& component,
                const std::string& source);

// The words for one component, by rows_for().
std::map<std::string, Tensor> words_for(const AdapterRegistry::Component& component, const LoraFile& file,
                                        LoadReport& report);

// All words that a component has, but those of the adapter `replaced`, with these beside them; of the ids their number
// counts. Throws Error{conflict} where it has one of them with other vectors.
std::vector<AddedWord> beside_loaded(const std::map<std::string, Tensor>& words, const AdapterState& state,
                                     size_t component, const std::string& replaced, const std::string& source);

}  // namespace lora
