#pragma once
// Tokens and their ids, both ways.
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
  // Copies what `entries` view; `source` names their file in messages. Throws Error{bad_file} where a token or an id
  // comes twice or an id is no int32.
  Vocabulary(std::vector<VocabularyEntry> entries, std::string source);

  std::optional<int64_t> id(std::string_view token) const;
  // As id(token); quicker where `token` has the next id after `previous`.
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
