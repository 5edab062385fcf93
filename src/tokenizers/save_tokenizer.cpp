#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/check.h"
#include "core/edge.h"
#include "io/atomic_folder.h"
#include "io/json_file.h"
#include "lora/tokenizer.h"
#include "tokenizers/tokenizer_files.h"

namespace lora {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

constexpr const char* kFiles[] = {
    "tokenizer.json",          "vocab.json",       "merges.txt", "spiece.model", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json"};

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

bool is_tokenizer_file(const std::string& name) {
  return std::find(std::begin(kFiles), std::end(kFiles), name) != std::end(kFiles);
}

void write_tokenizer_folder(const fs::path& folder, const std::function<void(const fs::path&)>& write) {
  AtomicFolder out(folder, {.marks = {std::begin(kFiles), std::end(kFiles)},
                            .replaces = [](auto& file) { return is_tokenizer_file(file.string()); }});
  write(out.path());
  out.commit();
}

void copy_tokenizer_files(const fs::path& from, const fs::path& to) {
  write_tokenizer_folder(to, [&](const fs::path& out) {
    for (auto name : kFiles) {
      if (!is_there(from / name)) continue;
      std::error_code error;
      fs::copy_file(from / name, out / name, error);
      check(!error, ErrorKind::io, "{}: cannot be written: {}", (to / name).string(), error.message());
    }
  });
}

void CLIPTokenizer::save_pretrained(const fs::path& folder) const {
  return edge([&] {
    if (!folder_.empty()) return copy_tokenizer_files(folder_, folder);
    write_tokenizer_folder(folder, [&](const fs::path& out) { write_openai(out, pad_token_); });
  });
}

}  // namespace lora
