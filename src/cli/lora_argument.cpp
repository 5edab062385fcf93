#include "lora_argument.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <sstream>

#include "check.h"
#include "progress.h"

namespace lora::cli {

namespace fs = std::filesystem;

namespace {

bool is_weight_file(const fs::path& file) {
  auto ending = file.extension().string();
  std::transform(ending.begin(), ending.end(), ending.begin(), [](unsigned char c) { return char(std::tolower(c)); });
  for (const char* extension : {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf"})
    if (ending == extension) return true;
  return false;
}

bool exists(const std::string& path) {
  std::error_code error;
  return fs::exists(path, error);
}

// As the library decides it.
bool is_repository(const std::string& source) { return LoraSource(source).is_repository(); }

bool is_path(const std::string& text) { return text.find_first_of("/\\") != text.npos || is_weight_file(text); }

// The number that is the whole of the text.
std::optional<double> number(const std::string& text) {
  double value = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  bool whole = error == std::errc() && end == text.data() + text.size() && std::isfinite(value);
  return whole ? std::optional(value) : std::nullopt;
}

// Takes everything but the components' weights out of the JSON.
void take_call_part(nlohmann::json& weight, LoraArgument& lora) {
  auto take = [&](const char* name, bool (nlohmann::json::*is)() const noexcept, const char* wanted) {
    auto value = weight.value(name, nlohmann::json());
    weight.erase(name);
    check(value.is_null() || ((value.*is)() && !value.empty()), ErrorKind::usage, "{}: \"{}\" must be {}", lora.file,
          name, wanted);
    return value;
  };
  auto schedule = take("schedule", &nlohmann::json::is_object, "an object with numbers");
  for (const auto& [at, factor] : schedule.items()) {
    auto fraction = number(at);
    check(fraction && *fraction >= 0 && *fraction <= 1 && factor.is_number(), ErrorKind::usage,
          "{}: the schedule has \"{}\": {}. It maps a fraction of the run, from 0 to 1, to a number.", lora.file, at,
          factor.dump());
    check(lora.schedule.emplace(*fraction, factor).second, ErrorKind::usage, "{}: the schedule has {} twice", lora.file,
          *fraction);
  }
  if (auto mask = take("mask", &nlohmann::json::is_string, "the name of a picture"); !mask.is_null()) lora.mask = mask;
  for (const auto& image : take("images", &nlohmann::json::is_array, "a list of numbers")) {
    check(image.is_number_integer() && image >= 1, ErrorKind::usage,
          "{}: \"images\" has {}. The images of a batch count from 1.", lora.file, image.dump());
    lora.images.push_back(image);
  }
}

// What may stand beside the call's keys in a weight's JSON.
void check_components(const nlohmann::json& weight, const std::string& file) {
  const std::vector<std::string> known{"unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3"};
  for (const auto& [name, value] : weight.items())
    check(std::find(known.begin(), known.end(), name) != known.end(), ErrorKind::usage,
          "{}: the weight has \"{}\", which is no component. It takes {}, or one \"weight\" for all, and \"schedule\", "
          "\"mask\" and \"images\".",
          file, name, fmt::join(known, ", "));
}

// The JSON of a weight. The parser alone would take the last of two values of one name.
nlohmann::json parsed(const std::string& file, const std::string& text) {
  using Event = nlohmann::json::parse_event_t;
  std::map<int, std::set<std::string>> names;
  auto look = [&](int depth, Event event, nlohmann::json& value) {
    if (event == Event::object_start) names[depth + 1].clear();
    check(event != Event::key || names[depth].insert(value.get<std::string>()).second, ErrorKind::usage,
          "{}: the weight names {} twice", file, value.dump());
    return true;
  };
  auto json = nlohmann::json::parse(text, look, /*allow_exceptions=*/false);
  check(json.is_object(), ErrorKind::usage, "{}: the weight `{}` is neither a number nor valid JSON", file, text);
  return json;
}

LoraScale scale_of(const nlohmann::json& weight, const std::string& file) {
  try {
    return LoraScale::parse(weight.dump());
  } catch (const Error& error) {
    throw Error(error.kind(), fmt::format("{}: {}", file, error.what()));
  }
}

LoraArgument with_weight(const std::string& file, const std::string& text) {
  LoraArgument lora{.file = file, .text = text};
  if (!text.starts_with('{')) {
    lora.weight = weight_number(file, text);
    return lora;
  }
  auto json = parsed(file, text);
  take_call_part(json, lora);
  if (json.contains("weight")) {
    check(json.size() == 1, ErrorKind::usage,
          "{}: \"weight\" is for all components. Remove it, or remove the weights of single components.", file);
    json = json["weight"];
  } else {
    check_components(json, file);
  }
  if (!json.is_object() || !json.empty()) lora.weight = scale_of(json, file);
  return lora;
}

}  // namespace

void check_is_no_url(const std::string& text) {
  const auto host = text.find("://");
  if (host == text.npos || exists(text)) return;
  // "https://huggingface.co/owner/name/resolve/main/folder/file.safetensors", and "/blob/" in place of "/resolve/".
  std::vector<std::string> parts;
  std::string part;
  for (std::istringstream rest(text.substr(host + 3, text.find_first_of("?#") - host - 3));
       std::getline(rest, part, '/');)
    if (!part.empty()) parts.push_back(part);
  const bool hub = !parts.empty() && parts[0].find("huggingface") != part.npos;
  const bool has_file = parts.size() > 5 && (parts[3] == "resolve" || parts[3] == "blob");
  const auto repo = parts.size() > 2 ? parts[1] + "/" + parts[2] : "";
  check(!hub || !has_file, ErrorKind::usage, "{}: is a web address. For this file, give {}{}/{}.", text, repo,
        has_file && parts[4] != "main" ? "@" + parts[4] : "",
        fmt::join(parts.begin() + (has_file ? 5 : 0), parts.end(), "/"));
  check(!hub || repo.empty(), ErrorKind::usage, "{}: is a web address. For this repository, give {}.", text, repo);
  throw Error(ErrorKind::usage,
              fmt::format("{}: is a web address. Download the file first, then give its path. For a repository on the "
                          "Hugging Face Hub, give owner/name.",
                          text));
}

LoraPlace::LoraPlace(const std::string& text) : source_(text) {
  check(!text.empty(), ErrorKind::usage, "no file is named. Give a file, a folder, or owner/name.");
  check_is_no_url(text);
  if (exists(text)) return;
  if (const auto at = text.find('@'); at != text.npos && is_repository(text.substr(0, at))) {
    source_ = text.substr(0, at);
    const auto rest = text.substr(at + 1);
    // The names of branches of pull requests have slashes: refs/pr/1.
    const auto slash = rest.find('/', rest.starts_with("refs/pr/") ? 8 : 0);
    revision_ = rest.substr(0, slash);
    if (slash != rest.npos) weight_name_ = rest.substr(slash + 1);
    check(!revision_.empty() && (slash == rest.npos || !weight_name_.empty()), ErrorKind::usage,
          "{}: the form is owner/name@REVISION or owner/name@REVISION/file.safetensors", text);
    return;
  }
  auto first = text.find('/'), second = first == text.npos ? first : text.find('/', first + 1);
  if (second == text.npos || !is_weight_file(text)) return;
  auto repo_id = text.substr(0, second);
  if (!is_repository(repo_id)) return;
  weight_name_ = text.substr(second + 1);
  source_ = repo_id;
}

HubOptions LoraPlace::hub_options(const std::string& cache_dir) const {
  HubOptions hub{.revision = revision_, .progress = download_progress()};
  if (is_repository(source_)) hub.cache_dir = cache_dir;  // for a file, it would be noted as without effect
  return hub;
}

ReadLoraOptions LoraPlace::read_options(const std::string& cache_dir) const {
  return {.hub = hub_options(cache_dir), .weight_name = weight_name_};
}

std::string LoraPlace::adapter_name() const {
  fs::path path = weight_name_.empty() ? source_ : weight_name_;
  if (!path.has_filename()) path = path.parent_path();
  return (is_repository(path.string()) ? path.filename() : path.stem()).string();
}

double weight_number(const std::string& label, const std::string& text) {
  if (auto value = number(text)) return *value;
  auto point = text;
  std::replace(point.begin(), point.end(), ',', '.');
  throw Error(ErrorKind::usage, fmt::format("{}: the weight \"{}\" is not a number{}", label, text,
                                            number(point) ? fmt::format(". Write {}, with a point", point) : ""));
}

std::pair<std::string, std::optional<std::string>> split_after_file(const std::string& text) {
  auto colon = text.find(":{");
  if (colon == text.npos) colon = text.rfind(':');
  if (colon == text.npos || exists(text)) return {text, std::nullopt};
  auto rest = text.substr(colon + 1);
  // The colon of "C:\\style.safetensors" or of "owner:name/style.safetensors".
  if (!rest.starts_with('{') && is_path(rest)) return {text, std::nullopt};
  return {text.substr(0, colon), std::move(rest)};
}

LoraArgument parse_lora_argument(const std::string& text) {
  check_is_no_url(text);
  const auto [file, weight] = split_after_file(text);
  return weight ? with_weight(file, *weight) : LoraArgument{.file = file, .text = "1"};
}

}  // namespace lora::cli
