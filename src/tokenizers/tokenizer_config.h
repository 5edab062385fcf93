#pragma once
// What a tokenizer's folder says beside its vocabulary: which tokens are special, which were added, how long a prompt
// is.
#include <cstdint>
#include <filesystem>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "tokenizers/added_tokens.h"
#include "tokenizers/vocabulary.h"

namespace lora {

struct TokenizerConfig {
  static constexpr int64_t kNoLimit = std::numeric_limits<int64_t>::max();

  struct Addition {
    AddedToken token;
    std::optional<int64_t> id;  // where a file states it
  };

  std::string bos_token, eos_token, pad_token;
  std::optional<std::string> unk_token;
  std::vector<Addition> added;  // in order; of two of one content the later holds
  int64_t model_max_length = kNoLimit;
  bool split_special_tokens = false;
  bool clean_up_tokenization_spaces = false;
};

// From tokenizer_config.json, special_tokens_map.json and added_tokens.json, where present, and what tokenizer.json
// says beside its model. `defaults` are for fields that none has; the tokens named there must not be null in a file,
// but for unk_token. Throws Error{bad_file, unsupported}.
TokenizerConfig read_tokenizer_config(const std::filesystem::path& folder, const nlohmann::json& tokenizer,
                                      const nlohmann::json& defaults);

// The added tokens by id: a token's own in the vocabulary, else the next one after it. Throws Error{bad_file} where
// another id is stated.
std::map<int64_t, AddedToken> number_added_tokens(const std::vector<TokenizerConfig::Addition>& additions,
                                                  const Vocabulary& vocabulary);

}  // namespace lora
