#pragma once
// CLIP's byte-pair tokenizer. It gives the same ids as transformers' CLIPTokenizer.
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "lora/added_word.h"

namespace lora {

class AddedTokens;
struct TokenizerConfig;
struct TokenizerFiles;

// Immutable after loading. Copies share the vocabulary. Threads: any number of threads may use one object.
class CLIPTokenizer {
 public:
  CLIPTokenizer(const CLIPTokenizer&) = default;
  CLIPTokenizer& operator=(const CLIPTokenizer&) = default;

  // Reads a folder with tokenizer.json, or else vocab.json and merges.txt. Also reads tokenizer_config.json,
  // special_tokens_map.json and added_tokens.json if they exist. Throws Error{not_found, bad_file, unsupported, io}.
  static CLIPTokenizer from_pretrained(const std::filesystem::path& folder);
  // CLIP's own tokenizer, which is part of the library: 49,408 tokens, prompts of 77 tokens. SD 1.x and SDXL's first
  // text encoder pad with the end token. SD 2.x and SDXL's second text encoder pad with "!".
  static CLIPTokenizer openai(const std::string& pad_token = "<|endoftext|>");

  // A copy that also knows these words, as after transformers' add_tokens. It finds a word anywhere in a text, in upper
  // or lower case. The text `word` becomes all ids of the word; `word_1` becomes its second id, `word_2` its third, and
  // so on. A word that is also one token of the vocabulary is found only between other words, not inside them. Throws
  // Error{conflict} if two words are equal or a word is a special token. Throws Error{usage} for words that are only
  // white space, and for words without ids.
  CLIPTokenizer with_words(const std::vector<AddedWord>& words) const;

  // Writes a folder from which from_pretrained() reads the same tokenizer. Does not write added words. Throws
  // Error{io}.
  void save_pretrained(const std::filesystem::path& folder) const;

  // The begin token, the ids of the text, the end token; of any length. `text` is UTF-8; invalid bytes become U+FFFD.
  // The text may contain special tokens.
  std::vector<int64_t> encode(std::string_view text) const;
  // encode(), cut or padded to model_max_length() ids. A cut keeps the end token. The same as padding="max_length",
  // truncation=True in transformers. The same as encode() if the folder does not state a length.
  std::vector<int64_t> encode_padded(std::string_view text) const;
  // The text that encode_padded() cuts off, or "".
  std::string truncated_part(std::string_view text) const;
  // The text of `ids`, with special tokens. Skips ids that the tokenizer does not have.
  std::string decode(const std::vector<int64_t>& ids) const;

  // The largest int64 if the folder does not state a length.
  int64_t model_max_length() const;
  int64_t pad_token_id() const;
  // The number of tokens in the vocabulary file. Added tokens have the ids after these.
  int64_t vocab_size() const;

 private:
  CLIPTokenizer() = default;

  struct Impl;
  std::shared_ptr<const Impl> impl_;
  std::shared_ptr<const AddedTokens> added_;
  std::filesystem::path folder_;  // the folder it was read from; empty for openai()
  std::string pad_token_;         // of openai()

  static CLIPTokenizer make(TokenizerFiles files, const TokenizerConfig& config);
};

}  // namespace lora
