#pragma once
// T5's Unigram tokenizer, Stable Diffusion 3's tokenizer_3. It gives the same ids as transformers' T5TokenizerFast.
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "lora/added_word.h"

namespace lora {

class AddedTokens;

// Immutable after loading. Copies share the vocabulary. Threads: any number of threads may use one object.
class T5Tokenizer {
 public:
  T5Tokenizer(const T5Tokenizer&) = default;
  T5Tokenizer& operator=(const T5Tokenizer&) = default;

  // Reads a folder with tokenizer.json, or else spiece.model. Also reads tokenizer_config.json, special_tokens_map.json
  // and added_tokens.json if they exist. Throws Error{not_found, bad_file, unsupported, io}.
  static T5Tokenizer from_pretrained(const std::filesystem::path& folder);

  // The same as CLIPTokenizer::with_words, except that upper and lower case differ.
  T5Tokenizer with_words(const std::vector<AddedWord>& words) const;

  // Copies the files that the tokenizer was read from. Does not write added words. Throws Error{io}.
  void save_pretrained(const std::filesystem::path& folder) const;

  // The ids of the text, then the end token; of any length. `text` is UTF-8; invalid bytes become U+FFFD. The text may
  // contain special tokens, such as <extra_id_0>.
  std::vector<int64_t> encode(std::string_view text) const;
  // encode(), cut or padded to `max_length` ids. A cut keeps the end token. The same as padding="max_length",
  // truncation=True in transformers. Throws Error{usage} if max_length is not positive.
  std::vector<int64_t> encode_padded(std::string_view text, int64_t max_length = 256) const;
  // The text that encode_padded() cuts off, or "". Throws Error{usage} if max_length is not positive.
  std::string truncated_part(std::string_view text, int64_t max_length = 256) const;
  // The text of `ids`, with special tokens. Skips ids that the tokenizer does not have.
  std::string decode(const std::vector<int64_t>& ids) const;

  int64_t pad_token_id() const;
  int64_t eos_token_id() const;
  // The number of tokens in the vocabulary, with <extra_id_…>. Added tokens have the ids after these.
  int64_t vocab_size() const;

 private:
  T5Tokenizer() = default;

  struct Impl;
  std::shared_ptr<const Impl> impl_;
  std::shared_ptr<const AddedTokens> added_;
  std::filesystem::path folder_;  // the folder it was read from
};

}  // namespace lora
