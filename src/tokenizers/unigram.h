#pragma once
// Unigram segmentation (arXiv:1804.10959): of all ways to write a word as tokens, the one whose scores, which are
// logarithms of probabilities, have the largest sum.
#include <string_view>
#include <vector>

#include "tokenizers/vocabulary.h"

namespace lora {

class Unigram {
 public:
  // The ids of `vocabulary` are 0 … scores.size() - 1; `unknown` is one of them.
  Unigram(Vocabulary vocabulary, std::vector<double> scores, int64_t unknown);

  // `word` is UTF-8. Characters in a row that no token has become one unknown token. Sums are in float64, and of equal
  // ones the first found counts, as in the reference: float32 would choose otherwise in long repetitions.
  std::vector<int64_t> encode(std::string_view word) const;

  const Vocabulary& vocabulary() const { return vocabulary_; }

 private:
  Vocabulary vocabulary_;
  std::vector<double> scores_;
  int64_t unknown_;
  double unknown_score_;
  size_t longest_;  // bytes of a token
};

}  // namespace lora
