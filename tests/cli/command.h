#pragma once
// Running the command as a shell does.
#include <cstdlib>
#include <fstream>
#include <string>

#include "support/compare.h"

namespace lora {

struct Result {
  int code;
  std::string out, err;
};

inline std::string read(const std::filesystem::path& file) {
  return {std::istreambuf_iterator<char>(std::ifstream(file).rdbuf()), {}};
}

// `arguments` as a shell takes them.
inline Result lora_command(const std::string& arguments) {
  // The command's cache of LoRAs is not the user's, unless the test has its own.
  static const TemporaryFolder caches;
  ::setenv("XDG_CACHE_HOME", caches.path().c_str(), /*overwrite=*/0);
  ::setenv("XDG_CONFIG_HOME", caches.path().c_str(), /*overwrite=*/0);
  TemporaryFolder folder;
  auto command = std::string(LORA_COMMAND) + " " + arguments + " >" + (folder / "out").string() + " 2>" +
                 (folder / "err").string() + " </dev/null";
  int status = std::system(command.c_str());
  return {WEXITSTATUS(status), read(folder / "out"), read(folder / "err")};
}

inline bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

inline void expect_error(const std::string& arguments, int code, const std::string& part) {
  auto result = lora_command(arguments);
  EXPECT_EQ(result.code, code) << arguments << "\n" << result.err;
  EXPECT_TRUE(contains(result.err + result.out, part)) << arguments << "\n" << result.err << result.out;
}

}  // namespace lora
