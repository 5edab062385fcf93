#pragma once
// Reads a T5 tokenizer's folder: tokens with their scores, and the normalisation. There are two forms of such folders.
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tokenizers/vocabulary.h"

namespace lora {

struct T5Files {
  Vocabulary vocabulary;  // ids from 0 up
  std::vector<double> scores;
  std::string charsmap;  // compiled; "" if there is none
  nlohmann::json rest;   // an object: everything in tokenizer.json except the model
};

// The id of the token for unknown text in every T5 vocabulary.
inline constexpr int64_t kT5Unknown = 2;

// "<extra_id_0>", "<extra_id_1>", …: tokens for gaps in a text.
std::vector<std::string> t5_extra_tokens(int64_t count);

// Reads tokenizer.json if it exists, else spiece.model. After the tokens of spiece.model come `extra_ids` tokens for
// gaps, the last of them first. Throws Error{not_found, bad_file, unsupported}.
T5Files read_t5_files(const std::filesystem::path& folder, int64_t extra_ids);

}  // namespace lora
