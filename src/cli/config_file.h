#pragma once
// Defaults of options, from a file lora.toml. It has a section for each verb, and a key for each option:
//
//   [generate]
//   MODEL = "models/tiny"
//   steps = 20
//   lora = ["ink.safetensors:0.6", "neon.safetensors"]
//   fuse = true
#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

namespace lora::cli {

// Threads: one object belongs to one parse of the command line.
class ConfigFile : public CLI::Config {
 public:
  // Declares --config of the command and of each verb. CLI11 calls the object when the command line is read, and before
  // anything is computed. Then the file gives values to the options of the chosen verb that the line does not have.
  static std::shared_ptr<const ConfigFile> declare(CLI::App& app);

  // Reads all sections. Throws Error{usage} that names the file and its line for what is not TOML, for an unknown
  // section or key, and for a value of a wrong type, range or choice. What else a value must be, the verb checks.
  // Returns nothing: the options have their values then. A help, `--version` and verbs such as `man` do not need the
  // default file, so it is not read for them.
  std::vector<CLI::ConfigItem> from_config(std::istream& stream) const override;
  std::string to_config(const CLI::App*, bool, bool, std::string) const override { return {}; }

  // "these options are from lora.toml: --steps (line 2), --cfg (line 3)"; empty where none is.
  std::string text() const;

 private:
  CLI::App& app_;
  mutable std::string file_;
  mutable std::vector<std::string> given_;  // the options that got values, with their lines

  explicit ConfigFile(CLI::App& app) : app_(app) {}
};

// lora.toml in the current folder, or else in lora.cpp/ of the user's folder for configs. Empty where neither exists.
std::filesystem::path default_config_file();

}  // namespace lora::cli
