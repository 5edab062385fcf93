#pragma once
// Reads a tokenizer's settings: which tokens are special, which were added, and how long a prompt is.
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
    std::optional<int64_t> id;  // if a file states it
  };

  std::string bos_token, eos_token, pad_token;
  std::optional<std::string> unk_token;
  std::vector<Addition> added;  // in order; of two with equal content the later counts
  int64_t model_max_length = kNoLimit;
  bool split_special_tokens = false;
  bool clean_up_tokenization_spaces = false;
};

// Reads tokenizer_config.json, special_tokens_map.json and added_tokens.json if they exist. `tokenizer` is
// tokenizer.json without its model. `defaults` has the values of missing fields. A token in `defaults` must not be null
// in a file, except unk_token. Throws Error{bad_file, unsupported}.
TokenizerConfig read_tokenizer_config(const std::filesystem::path& folder, const nlohmann::json& tokenizer,
                                      const nlohmann::json& defaults);

// The added tokens by id. A token that the vocabulary has keeps its id there. Another token gets the next id after the
// vocabulary. Throws Error{bad_file} if a file states a different id.
std::map<int64_t, AddedToken> number_added_tokens(const std::vector<TokenizerConfig::Addition>& additions,
                                                  const Vocabulary& vocabulary);

}  // namespace lora
