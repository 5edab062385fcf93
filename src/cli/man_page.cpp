#include "man_page.h"

#include <fmt/ranges.h>

#include "lora/version.h"

namespace lora::cli {

namespace {

// Text that roff prints as it is.
std::string roff(const std::string& text) {
  std::string out;
  for (char c : text) {
    if ((c == '.' || c == '\'') && (out.empty() || out.back() == '\n')) out += "\\&";
    if (c == '\\')
      out += "\\e";
    else if (c == '-')
      out += "\\-";
    else
      out += c;
  }
  return out;
}

std::string bold(const std::string& text) { return "\\fB" + roff(text) + "\\fR"; }
std::string italic(const std::string& text) { return "\\fI" + roff(text) + "\\fR"; }

// "MODEL", "[OTHER]", "FILE…".
std::string argument(const OutlineOption& option) {
  auto text = italic(option.names.front()) + (option.repeats ? "\\|.\\|.\\|." : "");
  return option.required ? text : "[" + text + "]";
}

std::string entry(const OutlineOption& option) {
  std::vector<std::string> names;
  for (const auto& name : option.names) names.push_back(option.is_argument ? italic(name) : bold(name));
  const auto value = option.is_flag() || option.is_argument ? "" : " " + italic(option.value);
  return fmt::format(".TP\n{}{}\n{}\n", fmt::join(names, ", "), value, roff(option.help));
}

std::string verb_section(const OutlineVerb& verb) {
  auto title = bold(fmt::format("lora {}", fmt::join(verb.words, " ")));
  for (const auto& each : verb.arguments()) title += " " + argument(each);
  auto text = fmt::format(".SS {}\n{}\n", title, roff(verb.help));
  for (const auto& option : verb.options)
    if (option.names.back() != "--help") text += entry(option);
  if (!verb.footer.empty()) text += fmt::format(".PP\n.nf\n{}\n.fi\n", roff(verb.footer));
  return text;
}

}  // namespace

std::string man_page(const OutlineVerb& command) {
  std::string verbs;
  for (const auto* verb : all_verbs(command))
    if (verb->verbs.empty()) verbs += verb_section(*verb);
  return fmt::format(
      R"(.\" Made by `lora man`.
.TH LORA 1 "" "lora.cpp {}" "User Commands"
.SH NAME
lora \- LoRA adapters for diffusion models
.SH SYNOPSIS
.B lora
.I VERB
.RI [ OPTIONS ]
.SH DESCRIPTION
{} loads, mixes, fuses and converts LoRA adapters, and draws with them.
Results go to stdout. Progress, notes and errors go to stderr.
.SH VERBS
{}.SH FILES
.TP
.I lora.toml
Defaults of options: a section for each verb, and a key for each option.
The first of these that exists is read: {}, {} in the current folder, {}.
.SH EXIT STATUS
.TP
0
Success.
.TP
1
A failure: a file is missing, damaged or for another model, or a result cannot be written.
.TP
2
A wrong call: an unknown option, a value out of range, or options that do not go together.
)",
      version(), bold("lora"), verbs, "the file of " + bold("--config"), italic("lora.toml"),
      italic("~/.config/lora.cpp/lora.toml"));
}

}  // namespace lora::cli
