#pragma once
// Unigram segmentation (arXiv:1804.10959). Of all ways to write a word as tokens, chooses the one with the largest sum
// of scores. A score is the logarithm of a probability.
#include <string_view>
#include <vector>

#include "tokenizers/vocabulary.h"

namespace lora {

class Unigram {
 public:
  // The ids of `vocabulary` are 0 … scores.size() - 1; `unknown` is one of them.
  Unigram(Vocabulary vocabulary, std::vector<double> scores, int64_t unknown);

  // `word` is UTF-8. A run of characters without a token becomes one unknown token. As in the reference, sums are in
  // float64, and the first of equal sums counts. float32 would give other results for long repetitions.
  std::vector<int64_t> encode(std::string_view word) const;

  const Vocabulary& vocabulary() const { return vocabulary_; }

 private:
  Vocabulary vocabulary_;
  std::vector<double> scores_;
  int64_t unknown_;
  double unknown_score_;
  size_t longest_;  // bytes of the longest token
};

}  // namespace lora
