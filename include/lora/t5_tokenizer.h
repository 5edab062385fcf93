#pragma once
// T5's Unigram tokenizer: the same ids as transformers' T5TokenizerFast. Stable Diffusion 3's tokenizer_3.
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "lora/added_word.h"

namespace lora {

class AddedTokens;

// Immutable once loaded: copies share the vocabulary, and any number of threads may use one object.
class T5Tokenizer {
 public:
  T5Tokenizer(const T5Tokenizer&) = default;
  T5Tokenizer& operator=(const T5Tokenizer&) = default;

  // From a folder with tokenizer.json (taken where it is present) or spiece.model; tokenizer_config.json,
  // special_tokens_map.json and added_tokens.json are heeded where present. Throws Error{not_found, bad_file,
  // unsupported}.
  static T5Tokenizer from_pretrained(const std::filesystem::path& folder);

  // As CLIPTokenizer::with_words, but that upper and lower case count.
  T5Tokenizer with_words(const std::vector<AddedWord>& words) const;

  // Copies the files that it came from, without words. Throws Error{io}.
  void save_pretrained(const std::filesystem::path& folder) const;

  // Token ids with the end token behind them, of any length. `text` is UTF-8; invalid bytes become U+FFFD. Special
  // tokens written out in the text, such as <extra_id_0>, are recognised.
  std::vector<int64_t> encode(const std::string& text) const;
  // encode(), cut to `max_length` keeping the end token, or padded to it: as padding="max_length", truncation=True in
  // transformers. Throws Error{usage} where max_length is not positive.
  std::vector<int64_t> encode_padded(const std::string& text, int64_t max_length = 256) const;
  // What encode_padded() cuts off, as text; "" where nothing is.
  std::string truncated_part(const std::string& text, int64_t max_length = 256) const;
  // The text of `ids`, special tokens included. Ids that are not in the vocabulary are passed over.
  std::string decode(const std::vector<int64_t>& ids) const;

  int64_t pad_token_id() const;
  int64_t eos_token_id() const;
  // Tokens of the vocabulary, <extra_id_…> included; tokens added to it come after.
  int64_t vocab_size() const;

 private:
  T5Tokenizer() = default;

  struct Impl;
  std::shared_ptr<const Impl> impl_;
  std::shared_ptr<const AddedTokens> added_;
  std::filesystem::path folder_;  // where it came from
};

}  // namespace lora
