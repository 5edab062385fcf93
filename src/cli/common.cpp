#include "cli/common.h"

#include <fmt/format.h>
#include <unistd.h>

#include <charconv>
#include <filesystem>

#include "core/check.h"
#include "core/text.h"

namespace lora {

namespace fs = std::filesystem;

namespace {

std::string checked_weight(std::string_view text, const std::string& of) {
  double weight = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), weight);
  bool is_number = error == std::errc() && end == text.data() + text.size() && std::isfinite(weight);
  check(is_number || text.starts_with('{'), ErrorKind::usage, "the weight \"{}\" of {} is not a number", text, of);
  if (!is_number) LoraScale::parse(std::string(text));
  return std::string(text);
}

// NAME.safetensors somewhere below the folder.
std::string find_by_name(const std::string& name, const fs::path& folder) {
  check(fs::is_directory(folder), ErrorKind::not_found, "{}: there is no such folder (--lora-dir)", folder.string());
  std::vector<std::string> names;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.path().extension() != ".safetensors") continue;
    if (entry.path().stem() == name) return entry.path().string();
    names.push_back(entry.path().stem().string());
  }
  auto near = nearest(name, names);
  fail(ErrorKind::not_found, "{}: no LoRA named \"{}\" in this folder{}", folder.string(), name,
       near.empty() ? "" : fmt::format("; did you mean \"{}\"?", near));
}

}  // namespace

LoraArgument parse_lora_argument(const std::string& text) {
  auto colon = text.ends_with('}') ? text.find(":{") : text.rfind(':');
  if (colon == std::string::npos || fs::exists(text)) return {text};
  return {text.substr(0, colon), checked_weight(std::string_view(text).substr(colon + 1), text.substr(0, colon))};
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
    check(!folder.empty(), ErrorKind::usage,
          "the prompt names the LoRA \"{}\", but no --lora-dir says where to look for it", name);
    result.loras.push_back(
        {find_by_name(name, folder),
         colon == std::string::npos ? "1" : checked_weight(std::string_view(tag).substr(colon + 1), name)});
    at = close + 1;
  }
  result.prompt += prompt.substr(at);
  return result;
}

void ModelArguments::declare(CLI::App& command) {
  command.add_option("MODEL", model, "A diffusers folder, or a single-file checkpoint (.safetensors, .ckpt)")
      ->required();
  command
      .add_option("--lora", loras,
                  "A LoRA file or folder, with its weight after a colon, a number or JSON by component and block; may "
                  "be repeated")
      ->type_name("FILE[:WEIGHT]")
      ->take_all();
  command.add_option("--dtype", dtype, "float32, bfloat16 or float16 in memory; without it, what suits the machine")
      ->type_name("DTYPE");
  command.add_option("--device", device, "cpu, cuda, cuda:1, …")->capture_default_str();
  command.add_option("--variant", variant, "Reads <name>.VARIANT.safetensors, such as fp16");
}

PipelineOptions ModelArguments::pipeline_options() const {
  PipelineOptions options{.variant = variant};
  if (!dtype.empty()) options.dtype = parse_dtype(dtype);
  try {
    options.device = Device(device);
  } catch (const std::exception&) {
    fail(ErrorKind::usage, "--device {}: no such device; cpu, cuda and cuda:N are", device);
  }
  return options;
}

std::vector<LoraArgument> ModelArguments::lora_arguments() const {
  std::vector<LoraArgument> all;
  for (const auto& text : loras) all.push_back(parse_lora_argument(text));
  return all;
}

std::vector<LoadReport> load_loras(LoraBaseMixin& pipe, const std::vector<LoraArgument>& loras) {
  std::vector<LoadReport> reports;
  std::vector<std::string> names;
  std::vector<LoraScale> weights;
  for (const auto& [file, weight] : loras) {
    auto path = fs::path(file).has_filename() ? fs::path(file) : fs::path(file).parent_path();
    auto name = path.stem().string();
    for (int i = 2; std::find(names.begin(), names.end(), name) != names.end(); ++i)
      name = fmt::format("{}-{}", path.stem().string(), i);
    reports.push_back(pipe.load_lora_weights(file, {.adapter_name = name}));
    names.push_back(name);
    weights.push_back(LoraScale::parse(weight));
  }
  if (!names.empty()) pipe.set_adapters(names, weights);
  return reports;
}

void Progress::show(int done, int total) {
  if (!isatty(STDERR_FILENO)) return;
  constexpr int kWidth = 30;
  std::string bar(size_t(kWidth * done / total), '#');
  fmt::print(stderr, "\r[{:<{}}] {}/{}  {:.2f} s/step ", bar, kWidth, done, total, seconds() / done);
  if (done == total) fmt::print(stderr, "\n");
}

}  // namespace lora
