#include "pipelines/prompt_chunks.h"

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include "core/check.h"
#include "pipelines/prompt_attention.h"

namespace lora {

namespace {

class Chunks {
 public:
  Chunks(const CLIPTokenizer& tokenizer, const std::vector<AddedWord>& words, int64_t length)
      : tokenizer_(tokenizer), room_(size_t(length) - 2) {
    const auto empty = tokenizer.encode("");
    begin_ = empty.front(), end_ = empty.back();
    if (const auto comma = tokenizer.encode(","); comma.size() == 3) comma_ = comma[1];
    for (const auto& word : words)
      if (word.ids.size() > 1 && word.ids.size() <= room_) words_[word.ids.front()] = &word.ids;
  }

  void add(const WeightedText& part);
  std::vector<PromptChunk> finish() {
    if (!now_.ids.empty() || all_.empty()) end_chunk();
    return std::move(all_);
  }

 private:
  const CLIPTokenizer& tokenizer_;
  const size_t room_;  // between begin and end
  int64_t begin_ = 0, end_ = 0;
  std::optional<int64_t> comma_;
  std::map<int64_t, const std::vector<int64_t>*> words_;  // of several ids, by their first

  std::vector<PromptChunk> all_;
  PromptChunk now_;                   // without begin and end
  std::optional<size_t> last_comma_;  // in now_

  bool is_full() const { return now_.ids.size() == room_; }
  void end_chunk();
  void end_after_comma();
  size_t word_at(const std::vector<int64_t>& ids, size_t at) const;
};

// How many ids belong to the word that begins at a place.
size_t Chunks::word_at(const std::vector<int64_t>& ids, size_t at) const {
  const auto found = words_.find(ids[at]);
  if (found == words_.end()) return 1;
  const auto& word = *found->second;
  const bool whole =
      ids.size() - at >= word.size() && std::equal(word.begin(), word.end(), ids.begin() + ptrdiff_t(at));
  return whole ? word.size() : 1;
}

void Chunks::end_chunk() {
  const auto padding = room_ - now_.ids.size();
  now_.ids.insert(now_.ids.begin(), begin_);
  now_.ids.push_back(end_);
  now_.ids.insert(now_.ids.end(), padding, tokenizer_.pad_token_id());
  now_.weights.insert(now_.weights.begin(), 1.0);
  now_.weights.resize(now_.ids.size(), 1.0);
  all_.push_back(std::exchange(now_, {}));
  last_comma_.reset();
}

// Ends the chunk after its last comma, if not too much follows the comma. The rest moves to the next chunk.
void Chunks::end_after_comma() {
  if (!last_comma_ || now_.ids.size() - *last_comma_ > size_t(kMostMovedTokens)) return;
  const auto kept = *last_comma_ + 1;
  PromptChunk moved{.ids = {now_.ids.begin() + ptrdiff_t(kept), now_.ids.end()},
                    .weights = {now_.weights.begin() + ptrdiff_t(kept), now_.weights.end()}};
  now_.ids.resize(kept);
  now_.weights.resize(kept);
  end_chunk();
  now_ = std::move(moved);
}

void Chunks::add(const WeightedText& part) {
  if (part.begins_chunk) end_chunk();
  auto ids = tokenizer_.encode(part.text);
  ids = {ids.begin() + 1, ids.end() - 1};
  for (size_t at = 0, count = 0; at < ids.size(); at += count) {
    count = word_at(ids, at);
    if (ids[at] == comma_)
      last_comma_ = now_.ids.size();
    else if (is_full())
      end_after_comma();
    if (is_full() || now_.ids.size() + count > room_) end_chunk();
    now_.ids.insert(now_.ids.end(), ids.begin() + ptrdiff_t(at), ids.begin() + ptrdiff_t(at + count));
    now_.weights.resize(now_.ids.size(), part.weight);
  }
}

}  // namespace

std::vector<PromptChunk> prompt_chunks(std::string_view prompt, const CLIPTokenizer& tokenizer,
                                       const std::vector<AddedWord>& words, int64_t length) {
  check(length > 2, ErrorKind::usage, "the text encoder reads {} tokens. Prompts with attention need at least 3",
        length);
  Chunks chunks(tokenizer, words, length);
  for (const auto& part : parse_prompt_attention(prompt)) chunks.add(part);
  return chunks.finish();
}

PromptChunk t5_tokens(std::string_view prompt, const T5Tokenizer& tokenizer) {
  PromptChunk all;
  for (const auto& part : parse_prompt_attention(prompt)) {
    const auto ids = tokenizer.encode(part.text);
    all.ids.insert(all.ids.end(), ids.begin(), ids.end() - 1);
    all.weights.resize(all.ids.size(), part.weight);
  }
  all.ids.push_back(tokenizer.eos_token_id());
  all.weights.push_back(1);
  return all;
}

}  // namespace lora
