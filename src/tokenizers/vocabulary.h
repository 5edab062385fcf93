#pragma once
// Maps tokens to ids and ids to tokens.
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizers/flat_index.h"

namespace lora {

struct VocabularyEntry {
  std::string_view token;
  int64_t id;
};

class Vocabulary {
 public:
  // Copies the texts of `entries`. `source` names their file in messages. Throws Error{bad_file} if a token or an id
  // occurs twice, or if an id is negative or too large for int32.
  Vocabulary(std::vector<VocabularyEntry> entries, std::string source);

  std::optional<int64_t> id(std::string_view token) const;
  // The same as id(token). Faster if the token has the next id after `previous`.
  std::optional<int64_t> id(std::string_view token, int64_t previous) const;
  std::optional<std::string_view> token(int64_t id) const;
  int64_t size() const { return static_cast<int64_t>(records_.size()); }
  const std::string& source() const { return source_; }

 private:
  struct Record {
    uint32_t begin, length;  // in text_
    int32_t id;
  };
  std::string_view token(const Record& record) const { return {text_.data() + record.begin, record.length}; }

  std::string text_;             // all tokens, one after another
  std::vector<Record> records_;  // by id
  FlatIndex by_token_;
  std::string source_;
};

}  // namespace lora
