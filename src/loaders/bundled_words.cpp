#include "loaders/bundled_words.h"

#include <ATen/ATen.h>

#include "adapters/finite.h"
#include "core/check.h"

namespace lora {

Tensor rows_for(const BundledEmbedding& embedding, const AdapterRegistry::Component& component,
                const std::string& source) {
  const auto& vectors = embedding.vectors;
  const auto& weight = component.parts->vocabulary->weight;
  auto rows = vectors.dim() == 1 ? vectors.unsqueeze(0) : vectors;
  check(rows.dim() == 2 && rows.size(0) > 0 && rows.size(1) == weight.size(1) && rows.is_floating_point(),
        ErrorKind::bad_shape, "{}: {} is {}; {} has vectors of width {} for its words; nothing was loaded", source,
        embedding.key, c10::str(vectors.scalar_type(), " ", vectors.sizes()), component.name, weight.size(1));
  return rows.to(weight.device(), weight.scalar_type());
}

std::map<std::string, Tensor> words_for(const AdapterRegistry::Component& component, const LoraFile& file,
                                        LoadReport& report) {
  std::map<std::string, Tensor> words;
  for (const auto& embedding : file.embeddings) {
    const auto& [word, of, key, vectors] = embedding;
    if (of != component.name) continue;
    auto rows = rows_for(embedding, component, file.source);
    if (!all_finite(vectors)) {
      report.unmatched.push_back({key, "it contains NaN or infinity"});
      continue;
    }
    if (!words.emplace(word, std::move(rows)).second) {
      report.unmatched.push_back({key, "another key of the file is for the same word and text encoder"});
      continue;
    }
    if (std::find(report.embeddings.begin(), report.embeddings.end(), word) == report.embeddings.end())
      report.embeddings.push_back(word);
  }
  return words;
}

std::vector<AddedWord> beside_loaded(const std::map<std::string, Tensor>& words, const AdapterState& state,
                                     size_t component, const std::string& replaced, const std::string& source) {
  std::map<std::string, Tensor> others;
  auto compare = [&](const LoadedAdapter& loaded, const std::string& conflict) {
    const auto& part = loaded.parts[component].adapter;
    if (!part) return;
    for (const auto& [word, vectors] : part->words) {
      auto mine = words.find(word);
      check(mine == words.end() || at::equal(mine->second, vectors), ErrorKind::conflict,
            "{}: it has the word \"{}\" for prompts. {}; nothing was loaded", source, word, conflict);
      if (mine == words.end()) others.emplace(word, vectors);
    }
  };
  for (const auto& adapter : state.loaded)
    if (adapter->name != replaced)
      compare(*adapter,
              fmt::format("The adapter \"{}\" has the same word with other vectors; delete that adapter first",
                          adapter->name));
  for (const auto& word : state.textual_inversions)
    compare(*word, "load_textual_inversion added the same word with other vectors; unload it first");
  // The new ones last, so that one of them is what a tokenizer refuses.
  std::vector<AddedWord> all;
  for (const auto& some : {others, words})
    for (const auto& [word, vectors] : some) all.push_back({word, std::vector<int64_t>(vectors.size(0))});
  return all;
}

}  // namespace lora
