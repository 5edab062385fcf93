#include <nlohmann/json.hpp>

#include "core/check.h"
#include "core/edge.h"
#include "io/json_file.h"
#include "lora/tokenizer.h"
#include "tokenizers/tokenizer_files.h"

namespace lora {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

void write_openai(const fs::path& folder, const std::string& pad_token) {
  auto files = openai_tokenizer_files();
  auto vocabulary = json::object();
  for (int64_t id = 0; id < files.vocabulary.size(); ++id) vocabulary[std::string(*files.vocabulary.token(id))] = id;
  write_text(folder / "vocab.json", vocabulary.dump());
  write_text(folder / "merges.txt", openai_merges());
  json special{{"bos_token", "<|startoftext|>"},
               {"eos_token", "<|endoftext|>"},
               {"unk_token", "<|endoftext|>"},
               {"pad_token", pad_token}};
  write_text(folder / "special_tokens_map.json", special.dump(2));
  special.update({{"tokenizer_class", "CLIPTokenizer"},
                  {"model_max_length", 77},
                  {"do_lower_case", true},
                  {"add_prefix_space", false},
                  {"errors", "replace"}});
  write_text(folder / "tokenizer_config.json", special.dump(2));
}

}  // namespace

void make_tokenizer_folder(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  check(!error, ErrorKind::io, "{}: the folder cannot be created: {}", folder.string(), error.message());
}

void copy_tokenizer_files(const fs::path& from, const fs::path& to, const std::vector<std::string>& names) {
  make_tokenizer_folder(to);
  for (const auto& name : names) {
    if (!is_there(from / name)) continue;
    std::error_code error;
    fs::copy_file(from / name, to / name, fs::copy_options::overwrite_existing, error);
    check(!error, ErrorKind::io, "{}: cannot be written: {}", (to / name).string(), error.message());
  }
}

void CLIPTokenizer::save_pretrained(const fs::path& folder) const {
  return edge([&] {
    if (!folder_.empty())
      return copy_tokenizer_files(folder_, folder,
                                  {"tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json",
                                   "special_tokens_map.json", "added_tokens.json"});
    make_tokenizer_folder(folder);
    write_openai(folder, pad_token_);
  });
}

}  // namespace lora
