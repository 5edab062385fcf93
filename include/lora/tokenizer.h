#pragma once
// CLIP's byte-pair tokenizer: the same ids as transformers' CLIPTokenizer.
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "lora/added_word.h"

namespace lora {

class AddedTokens;
struct TokenizerConfig;
struct TokenizerFiles;

// Immutable once loaded: copies share the vocabulary, and any number of threads may use one object.
class CLIPTokenizer {
 public:
  CLIPTokenizer(const CLIPTokenizer&) = default;
  CLIPTokenizer& operator=(const CLIPTokenizer&) = default;

  // From a folder with tokenizer.json (taken where it is present) or vocab.json and merges.txt; tokenizer_config.json,
  // special_tokens_map.json and added_tokens.json are heeded where present. Throws Error{not_found, bad_file,
  // unsupported}.
  static CLIPTokenizer from_pretrained(const std::filesystem::path& folder);
  // CLIP's own, built into the library: 49,408 tokens, prompts of 77. SD 1.x and SDXL's first encoder pad with the end
  // token, SD 2.x and SDXL's second with "!".
  static CLIPTokenizer openai(const std::string& pad_token = "<|endoftext|>");

  // This tokenizer with words beside its vocabulary, as after transformers' add_tokens: each is found wherever its
  // text stands, in upper or lower case. `word` is all of its ids, `word_1`, `word_2`, … the second, the third. A word
  // that is one token of the vocabulary counts only where it stands alone. Throws Error{conflict} where two are the
  // same, or one is a special token, and Error{usage} for words of nothing but white space or without ids.
  CLIPTokenizer with_words(const std::vector<AddedWord>& words) const;

  // Writes the folder that from_pretrained() reads to the same tokenizer, without words. Throws Error{io}.
  void save_pretrained(const std::filesystem::path& folder) const;

  // Token ids between the begin and the end token, of any length. `text` is UTF-8; invalid bytes become U+FFFD. Special
  // tokens written out in the text are recognised.
  std::vector<int64_t> encode(const std::string& text) const;
  // encode(), cut to model_max_length() keeping the end token, or padded to it: as padding="max_length",
  // truncation=True in transformers. As encode() where the folder states no length.
  std::vector<int64_t> encode_padded(const std::string& text) const;
  // What encode_padded() cuts off, as text; "" where nothing is.
  std::string truncated_part(const std::string& text) const;
  // The text of `ids`, special tokens included. Ids that are not in the vocabulary are passed over.
  std::string decode(const std::vector<int64_t>& ids) const;

  // The largest int64 where the folder states no length.
  int64_t model_max_length() const;
  // Tokens in the vocabulary file; tokens added to it come after.
  int64_t vocab_size() const;

 private:
  CLIPTokenizer() = default;

  struct Impl;
  std::shared_ptr<const Impl> impl_;
  std::shared_ptr<const AddedTokens> added_;
  std::filesystem::path folder_;  // where it came from; empty for openai()
  std::string pad_token_;         // openai()'s

  static CLIPTokenizer make(TokenizerFiles files, const TokenizerConfig& config);
};

}  // namespace lora
