#pragma once
// A copy of a tokenizer's folder, to change files in it. The destructor removes the copy.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>

#include "lora/error.h"
#include "lora/tokenizer.h"

namespace lora {

inline std::filesystem::path source_path(const std::string& path) {
  return std::filesystem::path(LORA_SOURCE_DIR) / path;
}

class TokenizerFolder {
 public:
  explicit TokenizerFolder(const std::string& original = "models/tiny/tokenizer") {
    static std::atomic<int> count = 0;
    path_ = std::filesystem::temp_directory_path() / fmt::format("lora-tokenizer-{}-{}", getpid(), count++);
    std::filesystem::copy(source_path(original), path_);
  }
  ~TokenizerFolder() { std::filesystem::remove_all(path_); }
  TokenizerFolder(const TokenizerFolder&) = delete;
  TokenizerFolder& operator=(const TokenizerFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }

  std::string read(const std::string& name) const {
    std::ostringstream text;
    text << std::ifstream(path_ / name, std::ios::binary).rdbuf();
    return text.str();
  }
  void write(const std::string& name, const std::string& text) const {
    std::ofstream(path_ / name, std::ios::binary) << text;
  }
  void write(const std::string& name, const nlohmann::json& content) const { write(name, content.dump()); }
  void remove(const std::string& name) const { std::filesystem::remove(path_ / name); }

  // Writes tokenizer.json in place of vocab.json and merges.txt.
  void write_tokenizer_json(const nlohmann::json& tokenizer) const {
    write("tokenizer.json", tokenizer);
    remove("vocab.json");
    remove("merges.txt");
  }

  // The message of from_pretrained()'s exception, or "nothing".
  template <class Tokenizer = CLIPTokenizer>
  std::string error(ErrorKind kind) const {
    try {
      Tokenizer::from_pretrained(path_);
    } catch (const Error& e) {
      EXPECT_EQ(to_string(e.kind()), std::string(to_string(kind)));
      return e.what();
    }
    return "nothing";
  }

 private:
  std::filesystem::path path_;
};

}  // namespace lora
