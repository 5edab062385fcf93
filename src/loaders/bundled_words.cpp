#include "loaders/bundled_words.h"

#include <ATen/ATen.h>

#include "adapters/finite.h"
#include "core/check.h"

namespace lora {

std::map<std::string, Tensor> words_for(const std::string& component, const Parts& parts, const LoraFile& file,
                                        LoadReport& report) {
  std::map<std::string, Tensor> words;
  for (const auto& [word, of, key, vectors] : file.embeddings) {
    if (of != component) continue;
    const auto& weight = parts.vocabulary->weight;
    auto rows = vectors.dim() == 1 ? vectors.unsqueeze(0) : vectors;
    check(rows.dim() == 2 && rows.size(0) > 0 && rows.size(1) == weight.size(1) && rows.is_floating_point(),
          ErrorKind::bad_shape, "{}: {} is {}; {} has vectors of width {} for its words; nothing was loaded",
          file.source, key, c10::str(vectors.scalar_type(), " ", vectors.sizes()), component, weight.size(1));
    if (!all_finite(rows)) {
      report.unmatched.push_back({key, "it contains NaN or infinity"});
      continue;
    }
    if (!words.emplace(word, rows.to(weight.device(), weight.scalar_type())).second) {
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
  for (const auto& name : state.names(component)) {
    if (name == replaced) continue;
    for (const auto& [word, vectors] : state.part(name, component)->words) {
      auto mine = words.find(word);
      check(mine == words.end() || at::equal(mine->second, vectors), ErrorKind::conflict,
            "{}: it has the word \"{}\" for prompts. The adapter \"{}\" has the same word with other vectors; delete "
            "that "
            "adapter first; nothing was loaded",
            source, word, name);
      if (mine == words.end()) others.emplace(word, vectors);
    }
  }
  // The new ones last, so that one of them is what a tokenizer refuses.
  std::vector<AddedWord> all;
  for (const auto& some : {others, words})
    for (const auto& [word, vectors] : some) all.push_back({word, std::vector<int64_t>(vectors.size(0))});
  return all;
}

}  // namespace lora
