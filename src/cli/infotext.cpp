#include "infotext.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <nlohmann/json.hpp>
#include <string_view>

#include "text_file.h"

namespace lora::cli {

namespace {

using nlohmann::json;

constexpr std::string_view kNegative = "Negative prompt:";
constexpr size_t kFewestFields = 3;

std::string quoted(const std::string& value) {
  if (value.find_first_of(",:\n") == value.npos) return value;
  return json(value).dump(-1, ' ', /*ensure_ascii=*/false, json::error_handler_t::replace);
}

std::string unquoted(const std::string& value) {
  if (!value.starts_with('"')) return value;
  const auto text = json::parse(value, nullptr, /*allow_exceptions=*/false);
  return text.is_string() ? text.get<std::string>() : value;
}

bool is_name_character(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) || std::string_view("_ -/").find(c) != std::string_view::npos;
}

// The end of a quoted text that begins at `at`; npos where it has no end.
size_t end_of_quotes(std::string_view line, size_t at) {
  for (auto i = at + 1; i < line.size(); ++i) {
    if (line[i] == '\\')
      ++i;
    else if (line[i] == '"')
      return i + 1;
  }
  return line.npos;
}

// "Name: value, Name: "a, b"". Parts without a colon are left out.
std::vector<std::pair<std::string, std::string>> fields_of(std::string_view line) {
  std::vector<std::pair<std::string, std::string>> fields;
  for (size_t at = 0; at < line.size();) {
    const auto colon = std::find_if_not(line.begin() + long(at), line.end(), is_name_character) - line.begin();
    if (size_t(colon) >= line.size() || line[size_t(colon)] != ':') {
      at = std::min(line.find(',', at), line.size() - 1) + 1;
      continue;
    }
    const auto name = trimmed(line.substr(at, size_t(colon) - at));
    at = std::min(line.find_first_not_of(kSpace, size_t(colon) + 1), line.size());
    auto end = at < line.size() && line[at] == '"' ? end_of_quotes(line, at) : line.npos;
    if (end == line.npos) end = std::min(line.find(',', at), line.size());
    if (!name.empty()) fields.emplace_back(name, unquoted(trimmed(line.substr(at, end - at))));
    at = std::min(line.find(',', end), line.size() - 1) + 1;
  }
  return fields;
}

}  // namespace

const std::string* Infotext::find(const std::string& field) const {
  const auto found = std::find_if(fields.begin(), fields.end(), [&](auto& each) { return each.first == field; });
  return found == fields.end() ? nullptr : &found->second;
}

std::vector<std::pair<std::string, std::string>> Infotext::lora_hashes() const {
  const auto* all = find("Lora hashes");
  std::vector<std::pair<std::string, std::string>> hashes;
  if (!all) return hashes;
  std::string_view rest = *all;
  while (!rest.empty()) {
    const auto part = rest.substr(0, rest.find(','));
    rest.remove_prefix(std::min(part.size() + 1, rest.size()));
    const auto colon = part.rfind(':');  // a name may have one
    if (colon != part.npos) hashes.emplace_back(trimmed(part.substr(0, colon)), trimmed(part.substr(colon + 1)));
  }
  return hashes;
}

std::string write_infotext(const Infotext& text) {
  std::string line;
  for (const auto& [name, value] : text.fields)
    line += fmt::format("{}{}: {}", line.empty() ? "" : ", ", name, quoted(value));
  return text.prompt + (text.negative.empty() ? "" : fmt::format("\n{} {}", kNegative, text.negative)) + "\n" + line;
}

std::optional<Infotext> read_infotext(const std::string& text) {
  const auto whole = trimmed(text);
  const auto last = whole.rfind('\n');
  const auto begin = last == whole.npos ? 0 : last + 1;
  Infotext result{.fields = fields_of(std::string_view(whole).substr(begin))};
  if (result.fields.size() < kFewestFields) return std::nullopt;
  std::string* part = &result.prompt;
  for (size_t at = 0; at < begin; at = whole.find('\n', at) + 1) {
    auto line = trimmed(std::string_view(whole).substr(at, whole.find('\n', at) - at));
    if (line.starts_with(kNegative)) {
      part = &result.negative;
      line = trimmed(line.substr(kNegative.size()));
    }
    *part += (part->empty() ? "" : "\n") + line;
  }
  return result;
}

std::string lora_hashes_field(const std::vector<std::pair<std::string, std::string>>& hashes) {
  std::string field;
  for (const auto& [name, hash] : hashes) field += fmt::format("{}{}: {}", field.empty() ? "" : ", ", name, hash);
  return field;
}

std::pair<std::string, std::string> sampler_of(const Scheduler& scheduler) {
  constexpr std::pair<const char*, const char*> kNames[] = {{"DDIMScheduler", "DDIM"},
                                                            {"PNDMScheduler", "PLMS"},
                                                            {"EulerDiscreteScheduler", "Euler"},
                                                            {"EulerAncestralDiscreteScheduler", "Euler a"},
                                                            {"HeunDiscreteScheduler", "Heun"},
                                                            {"DPMSolverMultistepScheduler", "DPM++ 2M"},
                                                            {"DPMSolverSDEScheduler", "DPM++ SDE"},
                                                            {"DPMSolverSinglestepScheduler", "dpmpp_2s"},
                                                            {"DEISMultistepScheduler", "deis"},
                                                            {"UniPCMultistepScheduler", "UniPC"},
                                                            {"LCMScheduler", "LCM"},
                                                            {"TCDScheduler", "tcd"},
                                                            {"FlowMatchEulerDiscreteScheduler", "flow_match_euler"}};
  constexpr std::pair<const char*, const char*> kTypes[] = {
      {"use_karras_sigmas", "Karras"}, {"use_exponential_sigmas", "Exponential"}, {"use_beta_sigmas", "Beta"}};
  auto text = scheduler.config();
  for (size_t at; (at = text.find("-Infinity")) != text.npos;) text.replace(at, 9, "null");  // Python's JSON
  const auto config = json::parse(text);
  std::string sampler = scheduler.class_name(), type;
  for (const auto& [class_name, name] : kNames)
    if (scheduler.class_name() == class_name) sampler = name;
  if (config.value("algorithm_type", json()) == "sde-dpmsolver++")
    sampler = config.value("solver_order", 2) == 3 ? "DPM++ 3M SDE" : "DPM++ 2M SDE";
  for (const auto& [field, name] : kTypes)
    if (config.contains(field) && config[field] == true) type = name;
  return {sampler, type};
}

}  // namespace lora::cli
