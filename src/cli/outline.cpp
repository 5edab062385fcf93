#include "outline.h"

#include <sstream>

#include "help.h"

namespace lora::cli {

namespace {

// "TEXT:{attention,plain}" has the value TEXT, of two values.
std::vector<std::string> listed_values(const std::string& type) {
  std::vector<std::string> values;
  const auto open = type.find(":{"), close = type.find('}', open == type.npos ? 0 : open);
  if (open == type.npos || close == type.npos) return values;
  std::istringstream list(type.substr(open + 2, close - open - 2));
  for (std::string value; std::getline(list, value, ',');) values.push_back(value.substr(0, value.find("->")));
  return values;
}

OutlineOption outline(const CLI::Option& option) {
  OutlineOption out{.help = option.get_description(),
                    .is_argument = option.get_positional(),
                    .required = option.get_required(),
                    .repeats = option.get_items_expected_max() > 1};
  for (const auto& name : option.get_snames()) out.names.push_back("-" + name);
  for (const auto& name : option.get_lnames()) out.names.push_back("--" + name);
  if (out.is_argument) out.names = {option.get_name(/*positional=*/true)};
  if (option.get_items_expected_max() == 0) return out;
  const auto type = option.get_type_name();
  out.value = type.substr(0, type.find(':', type.starts_with("FILE[") ? type.find(']') : 0));
  out.values = listed_values(type);
  if (out.values.empty()) out.values = values_of(option);
  return out;
}

}  // namespace

std::vector<OutlineOption> OutlineVerb::arguments() const {
  std::vector<OutlineOption> all;
  for (const auto& option : options)
    if (option.is_argument) all.push_back(option);
  return all;
}

OutlineVerb outline(const CLI::App& app) {
  OutlineVerb verb{.help = app.get_description(), .footer = app.get_footer()};
  for (const auto* at = &app; at->get_parent(); at = at->get_parent())
    verb.words.insert(verb.words.begin(), at->get_name());
  for (const auto* option : app.get_options()) verb.options.push_back(outline(*option));
  for (const auto* below : app.get_subcommands([](const CLI::App*) { return true; }))
    verb.verbs.push_back(outline(*below));
  return verb;
}

std::vector<const OutlineVerb*> all_verbs(const OutlineVerb& verb) {
  std::vector<const OutlineVerb*> all{&verb};
  for (const auto& below : verb.verbs)
    for (const auto* each : all_verbs(below)) all.push_back(each);
  return all;
}

std::string short_help(const std::string& help) {
  constexpr size_t kLongest = 100;
  const auto end = help.find(". ");
  auto text = help.substr(0, end);
  if (end == help.npos && text.ends_with('.')) text.pop_back();
  if (text.size() > kLongest) text = text.substr(0, text.rfind(' ', kLongest)) + " …";
  return text;
}

}  // namespace lora::cli
