#pragma once
// Reads a CLIP tokenizer's folder: vocabulary and merges. There are two forms of such folders.
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/check.h"
#include "core/json_cursor.h"
#include "tokenizers/byte_pair.h"
#include "tokenizers/vocabulary.h"

namespace lora {

struct TokenizerFiles {
  Vocabulary vocabulary;
  std::vector<Merge> merges;  // in the order of their ranks
  nlohmann::json rest;        // an object: everything in tokenizer.json except the model
};

// Reads tokenizer.json if it exists, else vocab.json and merges.txt. Throws Error{not_found, bad_file, unsupported}.
TokenizerFiles read_tokenizer_files(const std::filesystem::path& folder);

// OpenAI's merges.txt for CLIP, which is part of the library, and the vocabulary made from it.
TokenizerFiles openai_tokenizer_files();
std::string_view openai_merges();

// Parses the content of merges.txt. `source` names the file in messages.
std::vector<Merge> parse_merges(std::string_view text, const Vocabulary& vocabulary, const std::string& source);

// tokenizer.json, except the parts of its model that the caller takes from the cursor.
struct TokenizerJson {
  nlohmann::json model, rest;  // objects
};
// Walks through tokenizer.json. `take(part)` may take the value of a member of the model, and returns whether it did.
TokenizerJson walk_tokenizer_json(JsonCursor& at, const std::function<bool(std::string_view)>& take);

bool is_there(const std::filesystem::path& file);
// The file's JSON object, or an empty object if the file does not exist.
nlohmann::json read_optional_json(const std::filesystem::path& file);

// Whether a file of a folder is a tokenizer's.
bool is_tokenizer_file(const std::string& name);
// Writes a tokenizer's folder, as AtomicFolder does. `write` gets the folder to write to.
void write_tokenizer_folder(const std::filesystem::path& folder,
                            const std::function<void(const std::filesystem::path&)>& write);
// Copies the tokenizer's files of a folder. Throws Error{io}.
void copy_tokenizer_files(const std::filesystem::path& from, const std::filesystem::path& to);

// Calls `read`. Turns exceptions about JSON of an unexpected kind into Error{bad_file} that names `path`.
template <class Read>
auto reading(const std::filesystem::path& path, Read read) {
  try {
    return read();
  } catch (const nlohmann::json::exception& e) {
    fail(ErrorKind::bad_file, "{}: is not as a tokenizer's files should be: {}", path.string(), e.what());
  }
}

}  // namespace lora
