// `lora completions`, `lora man` and the help, which are made of the same options.
#include "cli/completions.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <sstream>

#include "cli/command.h"
#include "cli/command_line.h"
#include "cli/man_page.h"

namespace lora {

namespace {

namespace fs = std::filesystem;

class Completions : public testing::Test {
 protected:
  CLI::App app_{"lora.cpp", "lora"};
  std::shared_ptr<const cli::ConfigFile> config_ = cli::declare_command_line(app_);
  cli::OutlineVerb command_ = cli::outline(app_);

  // The command and all its verbs, each as "cache list".
  std::vector<std::pair<std::string, const cli::OutlineVerb*>> verbs() const {
    std::vector<std::pair<std::string, const cli::OutlineVerb*>> all;
    for (const auto* verb : cli::all_verbs(command_))
      all.emplace_back(fmt::format("{}", fmt::join(verb->words, " ")), verb);
    return all;
  }
};

// The text from `begin` to `end` after it.
std::string part(const std::string& text, const std::string& begin, const std::string& end) {
  auto at = text.find(begin);
  if (at == text.npos) return "";
  at += begin.size();
  return text.substr(at, text.find(end, at) - at);
}

std::string lines_with(const std::string& text, const std::string& begin) {
  std::istringstream in(text);
  std::string all;
  for (std::string line; std::getline(in, line);)
    if (line.starts_with(begin)) all += line + "\n";
  return all;
}

std::string with_underscores(std::string text) {
  std::replace(text.begin(), text.end(), ' ', '_');
  return text;
}

}  // namespace

TEST_F(Completions, HaveEachOptionOfEachVerb) {
  const auto bash = cli::bash_completions(command_), zsh = cli::zsh_completions(command_);
  const auto fish = cli::fish_completions(command_), man = cli::man_page(command_);
  size_t options = 0;
  for (const auto& [words, verb] : verbs()) {
    const auto bash_words = part(bash, "        \"" + words + "\")\n          words=\"", "\"") + " ";
    const auto zsh_specs =
        part(zsh, "_lora" + (words.empty() ? "" : "_" + with_underscores(words)) + "() {\n", "\n}\n");
    auto man_section = part(man, ".SS \\fBlora " + words, ".SS ");
    const auto fish_lines =
        lines_with(fish, "complete -c lora -n '__lora_verb" + (words.empty() ? "" : " " + words) + "' ");
    for (const auto& option : verb->options) {
      ++options;
      for (const auto& name : option.names) {
        if (option.is_argument) {
          EXPECT_TRUE(contains(zsh_specs, ":" + name + ":")) << words << " " << name;
          EXPECT_TRUE(contains(man_section, "\\fI" + name + "\\fR")) << words << " " << name;
          continue;
        }
        EXPECT_TRUE(contains(" " + bash_words, " " + name + " ")) << words << " " << name;
        EXPECT_TRUE(contains(zsh_specs, ")" + name + "[") || contains(zsh_specs, "*" + name + "["))
            << words << " " << name;
        const auto of_fish = name.starts_with("--") ? " -l " + name.substr(2) : " -s " + name.substr(1);
        EXPECT_TRUE(contains(fish_lines, of_fish + " ")) << words << " " << name;
        auto escaped = name;
        for (size_t at = 0; (at = escaped.find('-', at)) != escaped.npos; at += 2) escaped.insert(at, "\\");
        if (verb->verbs.empty() && option.names.back() != "--help") {
          EXPECT_TRUE(contains(man_section, "\\fB" + escaped + "\\fR")) << words << " " << name;
        }
      }
    }
  }
  EXPECT_GT(options, 100u);
  EXPECT_EQ(lora_command("completions bash").out, bash);
  EXPECT_EQ(lora_command("completions zsh").out, zsh);
  EXPECT_EQ(lora_command("completions fish").out, fish);
  EXPECT_EQ(lora_command("man").out, man);
  expect_error("completions csh", 2, "csh");
}

TEST_F(Completions, OfBashCompleteVerbsOptionsValuesAndFiles) {
  TemporaryFolder folder;
  folder.write("completions", lora_command("completions bash").out);
  folder.write("a picture.png", "");
  fs::create_directory(folder / "folder");
  auto completed = [&](const std::string& words) {
    folder.write("try", "cd " + folder.path().string() + "; source ./completions; COMP_WORDS=(" + words +
                            "); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _lora; printf '%s|' \"${COMPREPLY[@]}\"");
    EXPECT_EQ(std::system(("bash " + (folder / "try").string() + " >" + (folder / "out").string()).c_str()), 0);
    return read(folder / "out");
  };
  EXPECT_EQ(completed("lora gen"), "generate|");
  EXPECT_EQ(completed("lora cache l"), "list|");
  EXPECT_EQ(completed("lora cache list --j"), "--json|");
  EXPECT_EQ(completed("lora generate --schedul"), "--scheduler|");
  EXPECT_EQ(completed("lora generate m --scheduler ddi"), "ddim|");
  EXPECT_EQ(completed("lora fuse m --dtype f"), "fp32|float32|fp16|float16|");
  EXPECT_EQ(completed("lora generate m --image a"), "a picture.png|");
  EXPECT_EQ(completed("lora generate m --lora-dir f"), "folder|");
  EXPECT_EQ(completed("lora generate m --steps a"), "|");
  EXPECT_EQ(completed("lora inspect a"), "a picture.png|");
  EXPECT_EQ(completed("lora convert x --to ko"), "kohya|");
  EXPECT_EQ(completed("lora completions b"), "bash|");
}

TEST_F(Completions, EachVerbHasExamplesAndEachOptionAText) {
  for (const auto& [words, verb] : verbs()) {
    EXPECT_FALSE(verb->help.empty()) << words;
    EXPECT_TRUE(!verb->verbs.empty() || contains(verb->footer, "Examples:\n  lora " + words)) << words;
    for (const auto& option : verb->options) {
      EXPECT_FALSE(option.help.empty()) << words << " " << option.names.back();
      // "TEXT" says what the value is only where it is a text for people.
      EXPECT_TRUE(option.value != "TEXT" || !option.values.empty() || contains(option.names.back(), "prompt") ||
                  contains(option.names.back(), "negative"))
          << words << " " << option.names.back();
    }
  }
  const auto document = read(fs::path(LORA_SOURCE_DIR) / "docs/command.md");
  for (const auto& [words, verb] : verbs()) {
    if (verb->verbs.empty()) {
      EXPECT_TRUE(contains(document, "$ lora " + words)) << words << ": docs/command.md has no example";
    }
  }
  const auto help = lora_command("generate --help").out;
  for (const char* group :
       {"\nModel:", "\nLoRAs:", "\nPrompts:", "\nDrawing:", "\nPictures to start from:", "\nOutput:"})
    EXPECT_TRUE(contains(help, group)) << group << help;
}

}  // namespace lora
