#include "lora_argument.h"

#include <charconv>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

#include "check.h"
#include "lora/files.h"
#include "progress.h"

namespace lora::cli {

namespace fs = std::filesystem;

namespace {

bool is_weight_file(const fs::path& file) {
  for (const char* extension : {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf"})
    if (file.extension() == extension) return true;
  return false;
}

bool exists(const std::string& path) {
  std::error_code error;
  return fs::exists(path, error);
}

// As the library decides it.
bool is_repository(const std::string& source) {
  return is_repo_id(source) && !is_weight_file(source) && !exists(source);
}

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
    check(value.is_null() || (value.*is)(), ErrorKind::usage, "{}: \"{}\" must be {}", lora.file, name, wanted);
    return value;
  };
  auto schedule = take("schedule", &nlohmann::json::is_object, "an object");
  for (const auto& [at, factor] : schedule.items()) {
    auto fraction = number(at);
    check(fraction && *fraction >= 0 && *fraction <= 1 && factor.is_number(), ErrorKind::usage,
          "{}: the schedule has \"{}\": {}. It maps a fraction of the run, from 0 to 1, to a number.", lora.file, at,
          factor.dump());
    lora.schedule[*fraction] = factor;
  }
  if (auto mask = take("mask", &nlohmann::json::is_string, "the name of a PNG file"); !mask.is_null()) lora.mask = mask;
  for (const auto& image : take("images", &nlohmann::json::is_array, "a list of numbers")) {
    check(image.is_number_integer() && image >= 1, ErrorKind::usage,
          "{}: \"images\" has {}. The images of a batch count from 1.", lora.file, image.dump());
    lora.images.push_back(image);
  }
}

LoraArgument with_weight(const std::string& file, const std::string& text) {
  LoraArgument lora{.file = file, .text = text};
  if (auto value = number(text)) {
    lora.weight = *value;
    return lora;
  }
  check(text.starts_with('{'), ErrorKind::usage, "{}: the weight \"{}\" is not a number", file, text);
  auto json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  check(json.is_object(), ErrorKind::usage, "{}: the weight `{}` is neither a number nor valid JSON", file, text);
  take_call_part(json, lora);
  if (json.contains("weight")) {
    check(json.size() == 1, ErrorKind::usage,
          "{}: \"weight\" is for all components. Remove it, or remove the weights of single components.", file);
    json = json["weight"];
  }
  if (!json.is_object() || !json.empty()) lora.weight = LoraScale::parse(json.dump());
  return lora;
}

}  // namespace

LoraPlace::LoraPlace(const std::string& text) : source_(text) {
  auto first = text.find('/'), second = first == text.npos ? first : text.find('/', first + 1);
  if (second == text.npos || !is_weight_file(text) || exists(text)) return;
  auto repo_id = text.substr(0, second);
  if (!is_repository(repo_id)) return;
  weight_name_ = text.substr(second + 1);
  source_ = repo_id;
}

ReadLoraOptions LoraPlace::read_options() const {
  return {.hub = {.progress = download_progress()}, .weight_name = weight_name_};
}

std::string LoraPlace::adapter_name() const {
  fs::path path = weight_name_.empty() ? source_ : weight_name_;
  if (!path.has_filename()) path = path.parent_path();
  return (is_repository(path.string()) ? path.filename() : path.stem()).string();
}

LoraArgument parse_lora_argument(const std::string& text) {
  auto colon = text.ends_with('}') ? text.find(":{") : text.rfind(':');
  if (colon == std::string::npos || exists(text)) return {.file = text, .text = "1"};
  return with_weight(text.substr(0, colon), text.substr(colon + 1));
}

TaggedPrompt take_lora_tags(const std::string& prompt, const std::string& folder) {
  constexpr std::string_view kOpen = "<lora:";
  TaggedPrompt result;
  size_t at = 0;
  while (true) {
    auto open = prompt.find(kOpen, at);
    auto close = open == std::string::npos ? open : prompt.find('>', open);
    if (close == std::string::npos) break;
    result.prompt += prompt.substr(at, open - at);
    auto tag = prompt.substr(open + kOpen.size(), close - open - kOpen.size());
    auto colon = tag.rfind(':');
    auto name = tag.substr(0, colon);
    check(!folder.empty(), ErrorKind::usage, "the prompt names the LoRA \"{}\". Say with --lora-dir where it is.",
          name);
    result.loras.push_back(
        with_weight(find_lora(folder, name).string(), colon == std::string::npos ? "1" : tag.substr(colon + 1)));
    at = close + 1;
  }
  result.prompt += prompt.substr(at);
  return result;
}

}  // namespace lora::cli
