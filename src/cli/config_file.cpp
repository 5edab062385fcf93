#include "config_file.h"

#include <fmt/ranges.h>
#include <toml++/toml.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <set>

#include "check.h"
#include "command_line.h"
#include "picture_text.h"
#include "verbose.h"

namespace lora::cli {

namespace fs = std::filesystem;

namespace {

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return char(std::tolower(c)); });
  return text;
}

std::string place(const std::string& file, const toml::source_region& at) {
  return fmt::format("{}:{}", file, at.begin.line);
}

toml::table parsed(std::istream& stream, const std::string& file) {
  // toml++ seeks in a stream, which a pipe cannot do.
  const std::string text{std::istreambuf_iterator<char>(stream), {}};
  try {
    return toml::parse(text, file);
  } catch (const toml::parse_error& error) {
    throw Error(ErrorKind::usage, fmt::format("{}: {}", place(file, error.source()), error.description()));
  }
}

// An option that a key names, without its dashes, or an argument in any case.
CLI::Option* option_of(CLI::App& verb, const std::string& key) {
  for (auto* option : verb.get_options()) {
    if (!option->get_configurable()) continue;
    if (option->check_lname(key)) return option;
    if (option->get_positional() && lower(option->get_name(true)) == lower(key)) return option;
  }
  return nullptr;
}

// "generate", "cache list".
std::string path_of(const CLI::App& verb) {
  const auto* parent = verb.get_parent();
  if (!parent) return "";
  auto before = path_of(*parent);
  return before.empty() ? verb.get_name() : before + " " + verb.get_name();
}

std::string name_of(const CLI::Option& option) { return option.get_name(option.get_positional()); }

bool is_flag(const CLI::Option& option) { return option.get_items_expected_max() == 0; }

// These verbs print the same whatever a file says.
bool takes_defaults(const CLI::App& verb) { return verb.get_name() != "completions" && verb.get_name() != "man"; }

bool asks_for_help(const CLI::App& app) {
  if (app.get_help_ptr() && app.get_help_ptr()->count() > 0) return true;
  const auto verbs = app.get_subcommands();
  return std::any_of(verbs.begin(), verbs.end(), [](const CLI::App* verb) { return asks_for_help(*verb); });
}

bool needs_defaults(const CLI::App& app) {
  const auto verbs = app.get_subcommands();
  return app.get_version_ptr()->count() == 0 && !asks_for_help(app) &&
         std::all_of(verbs.begin(), verbs.end(), [](const CLI::App* verb) { return takes_defaults(*verb); });
}

// A pipe can be read only once, so it is not opened here.
void check_can_be_read(const std::string& file) {
  std::error_code error;
  check(fs::exists(file, error), ErrorKind::not_found, "--config: {}: no such file", file);
  check(!fs::is_directory(file, error), ErrorKind::io, "--config: {}: is a folder. Give the name of a file.", file);
  check(!fs::is_regular_file(file, error) || std::ifstream(file).good(), ErrorKind::io, "--config: {}: cannot be read",
        file);
}

// A value as the command line would have it.
std::string text_of(const toml::node& value, const std::string& label) {
  if (auto text = value.value_exact<std::string>()) return *text;
  if (auto number = value.value_exact<int64_t>()) return std::to_string(*number);
  if (auto number = value.value_exact<double>()) return fmt::format("{}", *number);
  throw Error(ErrorKind::usage, label + " must be a text or a number");
}

// The words that the value stands for. None for a flag that is off.
std::vector<std::string> words_of(const CLI::Option& option, const std::string& key, const toml::node& value,
                                  const std::string& label) {
  if (is_flag(option)) {
    const auto on = value.value_exact<bool>();
    check(on.has_value(), ErrorKind::usage, "{} must be true or false", label);
    if (*on) return {option.get_flag_value(key, "")};
    return option.check_lname("no-" + key) ? std::vector{option.get_flag_value("no-" + key, "")}
                                           : std::vector<std::string>();
  }
  const auto* list = value.as_array();
  const bool takes_list = option.get_items_expected_max() > 1;
  check(!list || takes_list, ErrorKind::usage, "{} takes one value, not a list", label);
  if (!takes_list) return {text_of(value, label)};
  // All options that take a list take texts.
  std::vector<std::string> words;
  const auto add = [&](const toml::node& each) {
    check(each.is_string(), ErrorKind::usage, "{} must be a text or a list of texts", label);
    words.push_back(*each.value_exact<std::string>());
  };
  if (!list) add(value);
  if (list)
    for (const auto& each : *list) add(each);
  check(!words.empty(), ErrorKind::usage, "{} has an empty list", label);
  return words;
}

// One section. Gives values to the options of a verb that was chosen.
class Section {
 public:
  // `trial` is the same verb of another command line. Each value is tried on it.
  Section(CLI::App& verb, CLI::App& trial, const std::string& file) : verb_(verb), trial_(trial), file_(file) {}

  // Returns the options that got a value, as "--steps (line 2)".
  std::vector<std::string> read(const toml::table& table) {
    for (const auto& [key, value] : table) {
      if (value.is_table())
        read_section(std::string(key.str()), *value.as_table());
      else
        read_value(std::string(key.str()), value);
    }
    return given_;
  }

 private:
  CLI::App& verb_;
  CLI::App& trial_;
  const std::string& file_;
  std::vector<std::string> given_;
  std::set<const CLI::Option*> named_;

  void read_section(const std::string& name, const toml::table& table) {
    std::vector<std::string> names;
    for (auto* verb : verb_.get_subcommands([](CLI::App*) { return true; })) {
      names.push_back(verb->get_name());
      if (verb->get_name() != name) continue;
      check(takes_defaults(*verb), ErrorKind::usage, "{}: `lora {}` takes nothing from a file",
            place(file_, table.source()), path_of(*verb));
      auto more = Section(*verb, *trial_.get_subcommand(name), file_).read(table);
      given_.insert(given_.end(), more.begin(), more.end());
      return;
    }
    const auto path = path_of(verb_);
    check(!option_of(verb_, name), ErrorKind::usage, "{}: \"{}\" takes a value, not a table",
          place(file_, table.source()), name);
    check(!names.empty(), ErrorKind::usage, "{}: `lora {}` has no part \"{}\"", place(file_, table.source()), path,
          name);
    throw Error(ErrorKind::usage,
                fmt::format("{}: [{}] is not the section of a verb. The verbs are: {}.", place(file_, table.source()),
                            path.empty() ? name : path + "." + name, fmt::join(names, ", ")));
  }

  // With --from, what is drawn follows from the picture alone.
  bool is_of_given_picture(const std::string& key) const {
    const auto* from = verb_.get_option_no_throw("--from");
    const bool is_given = from && from->count() > 0;
    return is_given && (is_of_picture(key) || key == "lora" || key == "prompts" || key == "style" || key == "styles");
  }

  void read_value(const std::string& key, const toml::node& value) {
    const auto at = place(file_, value.source()), path = path_of(verb_);
    check(verb_.get_subcommands([](CLI::App*) { return true; }).empty(), ErrorKind::usage,
          "{}: \"{}\" stands outside the section of a verb. Write it below one such as [generate].", at, key);
    auto* option = option_of(verb_, key);
    check(option, ErrorKind::usage,
          "{}: `lora {}` has no option \"{}\". A key is an option's long name without \"--\".", at, path, key);
    check(named_.insert(option).second, ErrorKind::usage, "{}: \"{}\" is the second key for {}", at, key,
          name_of(*option));
    const auto words = words_of(*option, key, value, fmt::format("{}: \"{}\"", at, key));
    // true and false are right for each flag. Trying one could set something outside, such as --verbose.
    if (!is_flag(*option)) give(*option_of(trial_, key), words, at);
    if (!verb_.parsed() || option->count() > 0 || words.empty() || is_of_given_picture(key)) return;
    give(*option, words, at);
    given_.push_back(fmt::format("{} (line {})", name_of(*option), value.source().begin.line));
  }

  static void give(CLI::Option& option, const std::vector<std::string>& words, const std::string& at) {
    try {
      option.add_result(words);
      option.run_callback();
    } catch (const CLI::ParseError& error) {
      throw Error(ErrorKind::usage, fmt::format("{}: {}", at, error.what()));
    }
  }
};

}  // namespace

fs::path default_config_file() {
  std::error_code error;
  if (fs::is_regular_file("lora.toml", error)) return "lora.toml";
  const char *configs = std::getenv("XDG_CONFIG_HOME"), *home = std::getenv("HOME");
  fs::path folder = configs && fs::path(configs).is_absolute() ? fs::path(configs)
                    : home && *home                            ? fs::path(home) / ".config"
                                                               : fs::path();
  auto file = folder / "lora.cpp" / "lora.toml";
  return !folder.empty() && fs::is_regular_file(file, error) ? file : fs::path();
}

std::shared_ptr<const ConfigFile> ConfigFile::declare(CLI::App& app) {
  constexpr const char* kHelp =
      "A TOML file with defaults of options. Default: lora.toml in the current folder, or else "
      "~/.config/lora.cpp/lora.toml.";
  std::shared_ptr<ConfigFile> config(new ConfigFile(app));
  app.config_formatter(config);
  auto check_file = [](const std::string& file) {
    if (!file.empty()) check_can_be_read(file);  // an empty value is refused as for each option
    return std::string();
  };
  auto* option = app.set_config("--config", default_config_file().string(), kHelp);
  option->type_name("FILE")->check(check_file);
  auto declare_of_verb = [&](CLI::App& verb, auto&& self) -> void {
    const auto verbs = verb.get_subcommands([](CLI::App*) { return true; });
    for (auto* each : verbs) self(*each, self);
    if (!verbs.empty()) return;
    verb.add_option_function<std::string>(
            "--config", [option](const std::string& file) { option->add_result(file); }, kHelp)
        ->type_name("FILE")
        ->check(check_file)
        ->trigger_on_parse()
        ->configurable(false);
  };
  declare_of_verb(app, declare_of_verb);
  return config;
}

std::vector<CLI::ConfigItem> ConfigFile::from_config(std::istream& stream) const {
  const auto& option = *app_.get_config_ptr();
  if (option.count() == 0 && !needs_defaults(app_)) return {};
  file_ = option.as<std::string>();
  CLI::App trial;
  declare_command_line(trial);
  given_ = Section(app_, trial, file_).read(parsed(stream, file_));
  tell_verbose(given_.empty() ? fmt::format("{}: nothing for this call", file_) : text());
  return {};
}

std::string ConfigFile::text() const {
  return given_.empty() ? "" : fmt::format("these options are from {}: {}", file_, fmt::join(given_, ", "));
}

}  // namespace lora::cli
