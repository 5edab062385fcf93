#pragma once
// CLIP's byte-pair tokenizer.
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

namespace lora {

class CLIPTokenizer {
 public:
  // From a folder with vocab.json + merges.txt, or tokenizer.json; tokenizer_config.json and special_tokens_map.json are
  // heeded where present. Throws Error{not_found, bad_file}.
  static CLIPTokenizer from_pretrained(const std::filesystem::path& folder);

  // Token ids with <|startoftext|> and <|endoftext|>, of any length. `text` is UTF-8; invalid bytes become U+FFFD.
  std::vector<int64_t> encode(const std::string& text) const;
  // encode(), cut to model_max_length() keeping the end token, and padded to it: as padding="max_length",
  // truncation=True in transformers.
  std::vector<int64_t> encode_padded(const std::string& text) const;
  // What encode_padded() cuts off, as text; "" where nothing is.
  std::string truncated_part(const std::string& text) const;
  std::string decode(const std::vector<int64_t>& ids) const;

  int64_t model_max_length() const;
  int64_t vocab_size() const;

 private:
  struct Impl;
  std::shared_ptr<const Impl> impl_;
};

}  // namespace lora
