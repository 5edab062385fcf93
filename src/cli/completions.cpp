#include "completions.h"

#include <fmt/ranges.h>

#include <algorithm>

namespace lora::cli {

namespace {

std::string replaced(std::string text, std::string_view from, std::string_view to) {
  for (size_t at = 0; (at = text.find(from, at)) != text.npos; at += to.size()) text.replace(at, from.size(), to);
  return text;
}

std::string words_of(const OutlineVerb& verb) { return fmt::format("{}", fmt::join(verb.words, " ")); }

std::vector<std::string> names_of(const std::vector<OutlineVerb>& verbs) {
  std::vector<std::string> names;
  for (const auto& verb : verbs) names.push_back(verb.words.back());
  return names;
}

// "parent|word" of each verb below.
std::vector<std::string> patterns(const OutlineVerb& verb) {
  std::vector<std::string> all;
  for (const auto& name : names_of(verb.verbs)) all.push_back(fmt::format("\"{}|{}\"", words_of(verb), name));
  return all;
}

// What completes a value.
enum class Completes { text, files, folders, values };
Completes completes(const OutlineOption& option) {
  if (!option.values.empty()) return Completes::values;
  return option.takes_folder() ? Completes::folders : option.takes_path() ? Completes::files : Completes::text;
}

// ---- bash -----------------------------------------------------------------------------------------------------------

std::string bash_value(const OutlineOption& option) {
  switch (completes(option)) {
    case Completes::values: return fmt::format("words=\"{}\"", fmt::join(option.values, " "));
    case Completes::files: return "kind=files";
    case Completes::folders: return "kind=folders";
    case Completes::text: break;
  }
  return "return";
}

std::string bash_values_of_options(const OutlineVerb& verb) {
  std::string text;
  for (const auto& option : verb.options) {
    if (option.is_argument || option.is_flag()) continue;
    std::vector<std::string> labels;
    for (const auto& name : option.names) labels.push_back(fmt::format("\"{}|{}\"", words_of(verb), name));
    text += fmt::format("    {}) {} ;;\n", fmt::join(labels, " | "), bash_value(option));
  }
  return text;
}

std::string bash_words(const OutlineVerb& verb) {
  auto words = names_of(verb.verbs);
  for (const auto& option : verb.options)
    if (!option.is_argument) words.insert(words.end(), option.names.begin(), option.names.end());
  std::string more;
  for (const auto& argument : verb.arguments())
    if (auto value = bash_value(argument); value != "return" && more.find(value) == more.npos)
      more += fmt::format("\n          [[ $current == -* ]] || {}", value);
  return fmt::format("        \"{}\")\n          words=\"{}\"{} ;;\n", words_of(verb), fmt::join(words, " "), more);
}

// ---- zsh ------------------------------------------------------------------------------------------------------------

std::string zsh_text(std::string text) {
  for (const char* special : {"\\", "[", "]", ":"}) text = replaced(text, special, fmt::format("\\{}", special));
  return replaced(text, "'", "'\\''");
}

// ":MODEL:_files".
std::string zsh_value(const OutlineOption& option) {
  const auto label = zsh_text(option.is_argument ? option.names.front() : option.value);
  switch (completes(option)) {
    case Completes::values: return fmt::format(":{}:({})", label, fmt::join(option.values, " "));
    case Completes::files: return fmt::format(":{}:_files", label);
    case Completes::folders: return fmt::format(":{}:_files -/", label);
    case Completes::text: break;
  }
  return fmt::format(":{}: ", label);
}

std::string zsh_specs(const OutlineVerb& verb) {
  std::string text;
  auto add = [&](const std::string& spec) { text += fmt::format(" \\\n    '{}'", spec); };
  for (const auto& option : verb.options) {
    if (option.is_argument) {
      add((option.repeats ? "*" : "") + zsh_value(option));
      continue;
    }
    const auto value = option.is_flag() ? "" : zsh_value(option);
    const auto others = option.repeats ? "*" : fmt::format("({})", fmt::join(option.names, " "));
    for (const auto& name : option.names)
      add(fmt::format("{}{}[{}]{}", others, name, zsh_text(short_help(option.help)), value));
  }
  return text;
}

std::string zsh_name(const OutlineVerb& verb) {
  return verb.words.empty() ? "_lora" : fmt::format("_lora_{}", fmt::join(verb.words, "_"));
}

std::string zsh_function(const OutlineVerb& verb) {
  if (verb.verbs.empty()) return fmt::format("{}() {{\n  _arguments -s{}\n}}\n\n", zsh_name(verb), zsh_specs(verb));
  std::string list, cases;
  for (const auto& below : verb.verbs) {
    list += fmt::format("\n        '{}:{}'", below.words.back(), zsh_text(short_help(below.help)));
    cases += fmt::format("        {}) {} ;;\n", below.words.back(), zsh_name(below));
  }
  return fmt::format(
      R"({}() {{
  local curcontext=$curcontext state line
  local -a verbs
  _arguments -C{} \
    '1: :->verb' \
    '*:: :->rest'
  case $state in
    verb)
      verbs=({})
      _describe verb verbs ;;
    rest)
      case $words[1] in
{}      esac ;;
  esac
}}

)",
      zsh_name(verb), zsh_specs(verb), list, cases);
}

// ---- fish -----------------------------------------------------------------------------------------------------------

std::string fish_text(const std::string& text) {
  return "'" + replaced(replaced(text, "\\", "\\\\"), "'", "\\'") + "'";
}

std::string fish_value(const OutlineOption& option) {
  switch (completes(option)) {
    case Completes::values: return fmt::format("-x -a {}", fish_text(fmt::format("{}", fmt::join(option.values, " "))));
    case Completes::files: return "-r -F";
    case Completes::folders: return "-x -a '(__fish_complete_directories)'";
    case Completes::text: break;
  }
  return "-x";
}

std::string fish_lines(const OutlineVerb& verb) {
  const auto at = verb.words.empty() ? "__lora_verb" : fmt::format("__lora_verb {}", words_of(verb));
  const auto begin = fmt::format("complete -c lora -n {} ", fish_text(at));
  std::string text;
  for (const auto& below : verb.verbs)
    text += fmt::format("{}-a {} -d {}\n", begin, below.words.back(), fish_text(short_help(below.help)));
  for (const auto& option : verb.options) {
    if (option.is_argument) {
      if (const auto value = fish_value(option); value != "-x")
        text += begin + value.substr(3) + "\n";  // without -r or -x, which are for the value of an option
      continue;
    }
    std::string names;
    for (const auto& name : option.names)
      names += name.starts_with("--") ? " -l " + name.substr(2) : " -s " + name.substr(1);
    text += fmt::format("{}{}{} -d {}\n", begin.substr(0, begin.size() - 1), names,
                        option.is_flag() ? "" : " " + fish_value(option), fish_text(short_help(option.help)));
  }
  return text;
}

}  // namespace

std::string bash_completions(const OutlineVerb& command) {
  std::string verbs, values, words;
  for (const auto* verb : all_verbs(command)) {
    if (!verb->verbs.empty())
      verbs += fmt::format("      {}) verb=\"{}${{COMP_WORDS[i]}}\" ;;\n", fmt::join(patterns(*verb), " | "),
                           verb->words.empty() ? "" : words_of(*verb) + " ");
    values += bash_values_of_options(*verb);
    words += bash_words(*verb);
  }
  return fmt::format(
      R"(# Completions of the command lora for bash, made by `lora completions bash`.
_lora() {{
  local current=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD - 1]}} verb= kind=words words= i
  COMPREPLY=()
  for ((i = 1; i < COMP_CWORD; i++)); do
    case "$verb|${{COMP_WORDS[i]}}" in
{}    esac
  done
  case "$verb|$before" in
{}    *)
      case "$verb" in
{}      esac ;;
  esac
  [[ $kind == words ]] || compopt -o filenames 2>/dev/null
  case $kind in
    files) mapfile -t COMPREPLY < <(compgen -f -- "$current") ;;
    folders) mapfile -t COMPREPLY < <(compgen -d -- "$current") ;;
    words) mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current") ;;
  esac
}}
complete -F _lora lora
)",
      verbs, values, words);
}

std::string zsh_completions(const OutlineVerb& command) {
  std::string text = "#compdef lora\n# Completions of the command lora for zsh, made by `lora completions zsh`.\n\n";
  for (const auto* verb : all_verbs(command)) text += zsh_function(*verb);
  return text + "if [ \"$funcstack[1]\" = _lora ]; then\n  _lora \"$@\"\nelse\n  compdef _lora lora\nfi\n";
}

std::string fish_completions(const OutlineVerb& command) {
  std::string cases, lines;
  for (const auto* verb : all_verbs(command)) {
    if (!verb->verbs.empty())
      cases += fmt::format("            case {}\n                set verb \"{}$word\"\n",
                           fmt::join(patterns(*verb), " "), verb->words.empty() ? "" : words_of(*verb) + " ");
    lines += fish_lines(*verb);
  }
  return fmt::format(
      R"(# Completions of the command lora for fish, made by `lora completions fish`.
function __lora_verb
    set -l verb ""
    for word in (commandline -opc)[2..-1]
        switch "$verb|$word"
{}        end
    end
    test "$verb" = "$argv"
end
complete -c lora -f
{})",
      cases, lines);
}

}  // namespace lora::cli
