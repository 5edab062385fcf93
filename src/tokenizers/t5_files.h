#pragma once
// Reads a T5 tokenizer's folder: tokens with their scores and the normalisation, from either form they are kept in.
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tokenizers/vocabulary.h"

namespace lora {

struct T5Files {
  Vocabulary vocabulary;  // ids from 0 on
  std::vector<double> scores;
  std::string charsmap;  // compiled; "" where there is none
  nlohmann::json rest;   // what else tokenizer.json holds; an object
};

// What stands for unknown text in every T5 vocabulary.
inline constexpr int64_t kT5Unknown = 2;

// <extra_id_0> and so on: tokens for gaps in a text.
std::vector<std::string> t5_extra_tokens(int64_t count);

// tokenizer.json where it is present, else spiece.model, behind whose tokens come `extra_ids` tokens for gaps, the last
// of them first. Throws Error{not_found, bad_file, unsupported}.
T5Files read_t5_files(const std::filesystem::path& folder, int64_t extra_ids);

}  // namespace lora
