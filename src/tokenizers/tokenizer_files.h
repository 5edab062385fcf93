#pragma once
// Reads a tokenizer's folder: vocabulary and merges, from either of the two forms they are kept in.
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/check.h"
#include "tokenizers/byte_pair.h"
#include "tokenizers/vocabulary.h"

namespace lora {

struct TokenizerFiles {
  Vocabulary vocabulary;
  std::vector<Merge> merges;  // in order of rank
  nlohmann::json rest;        // what else tokenizer.json holds; an object
};

// tokenizer.json where it is present, else vocab.json and merges.txt. Throws Error{not_found, bad_file, unsupported}.
TokenizerFiles read_tokenizer_files(const std::filesystem::path& folder);

// merges.txt and the vocabulary that follows from it, as OpenAI published them for CLIP: built into the library.
TokenizerFiles openai_tokenizer_files();
std::string_view openai_merges();

// The text of merges.txt as ids. `source` names it in messages.
std::vector<Merge> parse_merges(std::string_view text, const Vocabulary& vocabulary, const std::string& source);

bool is_there(const std::filesystem::path& file);
// An empty object where there is no such file.
nlohmann::json read_optional_json(const std::filesystem::path& file);

// Copies those of the files `names` that are there. Throws Error{io}.
void copy_tokenizer_files(const std::filesystem::path& from, const std::filesystem::path& to,
                          const std::vector<std::string>& names);
void make_tokenizer_folder(const std::filesystem::path& folder);

// `read()`, with what JSON of an unexpected kind throws turned into Error{bad_file} naming `path`.
template <class Read>
auto reading(const std::filesystem::path& path, Read read) {
  try {
    return read();
  } catch (const nlohmann::json::exception& e) {
    fail(ErrorKind::bad_file, "{}: not as a tokenizer's files should be: {}", path.string(), e.what());
  }
}

}  // namespace lora
