#include "tokenizers/unigram.h"

#include <algorithm>

namespace lora {

// The score of an unknown character is this much below the lowest score of a token.
static constexpr double kUnknownPenalty = 10;

static bool continues_character(char byte) { return (static_cast<unsigned char>(byte) & 0xC0) == 0x80; }

Unigram::Unigram(Vocabulary vocabulary, std::vector<double> scores, int64_t unknown)
    : vocabulary_(std::move(vocabulary)),
      scores_(std::move(scores)),
      unknown_(unknown),
      unknown_score_(*std::ranges::min_element(scores_) - kUnknownPenalty),
      longest_(0) {
  for (int64_t id = 0; id < vocabulary_.size(); ++id) longest_ = std::max(longest_, vocabulary_.token(id)->size());
}

std::vector<int64_t> Unigram::encode(std::string_view word) const {
  // For each byte, the best way to write the word up to it: the score, the last token and where that begins.
  struct Way {
    double score = 0;
    size_t begin = std::string_view::npos;
    int64_t id = 0;
  };
  std::vector<Way> best(word.size() + 1);
  auto offer = [&](size_t begin, size_t end, int64_t id, double score) {
    score += best[begin].score;
    if (best[end].begin == std::string_view::npos || score > best[end].score) best[end] = {score, begin, id};
  };

  for (size_t begin = 0, next; begin < word.size(); begin = next) {
    next = begin + 1;
    while (next < word.size() && continues_character(word[next])) ++next;
    bool alone = false;  // whether the character alone is a token
    for (size_t end = next, last = std::min(word.size(), begin + longest_); end <= last; ++end) {
      if (end < word.size() && continues_character(word[end])) continue;
      auto id = vocabulary_.id(word.substr(begin, end - begin));
      if (!id) continue;
      offer(begin, end, *id, scores_[static_cast<size_t>(*id)]);
      alone |= end == next;
    }
    if (!alone) offer(begin, next, unknown_, unknown_score_);
  }

  std::vector<int64_t> ids;
  for (size_t end = word.size(); end > 0; end = best[end].begin)
    if (best[end].id != unknown_ || ids.empty() || ids.back() != unknown_) ids.push_back(best[end].id);
  std::ranges::reverse(ids);
  return ids;
}

}  // namespace lora
