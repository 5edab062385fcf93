#include "cli/common.h"

#include <fmt/format.h>
#include <unistd.h>

#include <charconv>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "checkpoints/repository.h"
#include "core/check.h"
#include "core/text.h"
#include "pipelines/pictures.h"

namespace lora {

namespace fs = std::filesystem;

namespace {

constexpr int kBarWidth = 30;

// What is beside the components in a weight's JSON.
void take_call_part(nlohmann::json& weight, LoraArgument& lora) {
  auto take = [&](const char* name, bool (nlohmann::json::*is)() const noexcept, const char* wanted) {
    auto value = weight.value(name, nlohmann::json());
    weight.erase(name);
    check(value.is_null() || (value.*is)(), ErrorKind::usage, "the {} of {}: {} was expected", name, lora.file, wanted);
    return value;
  };
  auto schedule = take("schedule", &nlohmann::json::is_object, "an object");
  for (const auto& [at, factor] : schedule.items()) {
    double fraction = 0;
    auto [end, error] = std::from_chars(at.data(), at.data() + at.size(), fraction);
    check(error == std::errc() && end == at.data() + at.size() && fraction >= 0 && fraction <= 1 && factor.is_number(),
          ErrorKind::usage, "the schedule of {}: \"{}\": {}; a fraction of the run and a number were expected",
          lora.file, at, factor.dump());
    lora.schedule[fraction] = factor;
  }
  if (auto mask = take("mask", &nlohmann::json::is_string, "a PNG file"); !mask.is_null()) lora.mask = mask;
  for (const auto& image : take("images", &nlohmann::json::is_array, "a list of numbers")) {
    check(image.is_number_integer() && image >= 1, ErrorKind::usage,
          "the images of {}: {} is no picture of the batch; they count from 1", lora.file, image.dump());
    lora.images.push_back(image);
  }
}

LoraArgument with_weight(const std::string& file, const std::string& text) {
  LoraArgument lora{.file = file, .text = text};
  double number = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error == std::errc() && end == text.data() + text.size() && std::isfinite(number)) {
    lora.weight = number;
    return lora;
  }
  check(text.starts_with('{'), ErrorKind::usage, "the weight \"{}\" of {} is not a number", text, file);
  auto json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  check(json.is_object(), ErrorKind::usage, "`{}` is no LoRA's weight: a number or JSON was expected", text);
  take_call_part(json, lora);
  if (json.contains("weight")) {
    check(json.size() == 1, ErrorKind::usage,
          "the weight of {}: \"weight\" is for all components; leave it out or them", file);
    json = json["weight"];
  }
  if (!json.is_object() || !json.empty()) lora.weight = LoraScale::parse(json.dump());
  return lora;
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

// Where a LoRA that the command line names is; "owner/name/folder/file.safetensors" is that file of the repository.
struct LoraPlace {
  std::string source, weight_name;

  explicit LoraPlace(const std::string& text) : source(text) {
    auto parts = split(text, '/');
    std::error_code error;
    if (parts.size() < 3 || !is_weight_file(text) || fs::exists(text, error)) return;
    auto repo_id = parts[0] + "/" + parts[1];
    if (!is_repository(repo_id)) return;
    weight_name = text.substr(repo_id.size() + 1);
    source = repo_id;
  }

  // The repository's name, or the file's or folder's.
  std::string adapter_name() const {
    fs::path path = weight_name.empty() ? source : weight_name;
    if (!path.has_filename()) path = path.parent_path();
    return (is_repository(path) ? path.filename() : path.stem()).string();
  }
};

}  // namespace

LoraArgument parse_lora_argument(const std::string& text) {
  auto colon = text.ends_with('}') ? text.find(":{") : text.rfind(':');
  if (colon == std::string::npos || fs::exists(text)) return {.file = text, .text = "1"};
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
    check(!folder.empty(), ErrorKind::usage,
          "the prompt names the LoRA \"{}\", but no --lora-dir says where to look for it", name);
    result.loras.push_back(
        with_weight(find_by_name(name, folder), colon == std::string::npos ? "1" : tag.substr(colon + 1)));
    at = close + 1;
  }
  result.prompt += prompt.substr(at);
  return result;
}

void ModelArguments::declare(CLI::App& command) {
  command
      .add_option("MODEL", model,
                  "A diffusers folder, a single-file checkpoint (.safetensors, .ckpt), or a repository on the Hugging "
                  "Face Hub (owner/name)")
      ->required();
  command
      .add_option("--lora", loras,
                  "A LoRA file or folder, a repository on the Hub (owner/name) or a file of one "
                  "(owner/name/style.safetensors), with its weight after a colon, a number or JSON by component and "
                  "block; may be repeated")
      ->type_name("FILE[:WEIGHT]")
      ->take_all();
  command.add_option("--dtype", dtype, "float32, bfloat16 or float16 in memory; without it, what suits the machine")
      ->type_name("DTYPE");
  command.add_option("--device", device, "cpu, cuda, cuda:1, …")->capture_default_str();
  command.add_option("--variant", variant, "Reads <name>.VARIANT.safetensors, such as fp16");
}

PipelineOptions ModelArguments::pipeline_options() const {
  PipelineOptions options{.variant = variant, .hub = {.progress = download_progress()}};
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

std::vector<LoadReport> load_loras(LoraBaseMixin& pipe, const std::vector<LoraArgument>& loras, bool for_a_call) {
  std::vector<LoadReport> reports;
  std::vector<std::string> names;
  std::vector<LoraScale> weights;
  for (const auto& lora : loras) {
    check(for_a_call || !lora.is_of_a_call(), ErrorKind::usage,
          "{}: schedules, masks and images are for drawing; a weight alone is what can be used here", lora.file);
    LoraPlace place(lora.file);
    auto name = place.adapter_name();
    for (int i = 2; std::find(names.begin(), names.end(), name) != names.end(); ++i)
      name = fmt::format("{}-{}", place.adapter_name(), i);
    reports.push_back(pipe.load_lora_weights(
        place.source,
        {.adapter_name = name, .weight_name = place.weight_name, .hub = {.progress = download_progress()}}));
    names.push_back(name);
    weights.push_back(lora.weight);
  }
  if (!names.empty()) pipe.set_adapters(names, weights);
  return reports;
}

void set_call_adapters(const std::vector<LoraArgument>& loras, const std::vector<LoadReport>& reports, int images,
                       CallOptions& options) {
  if (std::none_of(loras.begin(), loras.end(), [](auto& lora) { return lora.is_of_a_call(); })) return;
  bool per_image = std::any_of(loras.begin(), loras.end(), [](auto& lora) { return !lora.images.empty(); });
  options.adapters_per_image.resize(per_image ? size_t(images) : 0);
  if (!per_image) options.adapters.emplace();
  for (size_t i = 0; i < loras.size(); ++i) {
    const auto& lora = loras[i];
    CallAdapter adapter{.name = reports[i].adapter_name, .weight = lora.weight};
    if (!lora.schedule.empty()) adapter.schedule = LoraSchedule::by_fraction(lora.schedule);
    if (!lora.mask.empty()) {
      auto mask = Image::load(lora.mask);
      adapter.mask = to_grey({mask}, mask.height, mask.width)[0][0];
    }
    if (!per_image) options.adapters->push_back(adapter);
    for (int image = 1; per_image && image <= images; ++image)
      if (lora.images.empty() || std::find(lora.images.begin(), lora.images.end(), image) != lora.images.end())
        options.adapters_per_image[size_t(image - 1)].push_back(adapter);
    for (int image : lora.images)
      check(image <= images, ErrorKind::usage, "the images of {}: {} of a batch of {}", lora.file, image, images);
  }
}

void Progress::show(int done, int total) {
  if (!isatty(STDERR_FILENO)) return;
  std::string bar(size_t(kBarWidth * done / total), '#');
  fmt::print(stderr, "\r[{:<{}}] {}/{}  {:.2f} s/step ", bar, kBarWidth, done, total, seconds() / done);
  if (done == total) fmt::print(stderr, "\n");
}

std::function<void(int, int)> progress_after_a_second() {
  return [progress = std::make_shared<Progress>()](int done, int total) {
    if (progress->seconds() > 1) progress->show(done, total);
  };
}

namespace {

class DownloadBar {
 public:
  ~DownloadBar() { end_line(); }

  void show(const HubProgress& now) {
    auto seconds = time_.seconds();
    if (seconds < 1 || !isatty(STDERR_FILENO)) return;
    auto done = now.total_bytes == 0 ? 0 : std::min(1.0, double(now.bytes) / double(now.total_bytes));
    fmt::print(stderr, "\r[{:<{}}] {}/{} files  {:.0f}/{:.0f} MB  {:.1f} MB/s ",
               std::string(size_t(kBarWidth * done), '#'), kBarWidth, now.files, now.total_files,
               double(now.bytes) / 1e6, double(now.total_bytes) / 1e6, double(now.bytes) / 1e6 / seconds);
    open_ = true;
    if (now.files == now.total_files) end_line();
  }

 private:
  Progress time_;
  bool open_ = false;

  void end_line() {
    if (std::exchange(open_, false)) fmt::print(stderr, "\n");
  }
};

}  // namespace

std::function<bool(const HubProgress&)> download_progress() {
  return [bar = std::make_shared<DownloadBar>()](const HubProgress& now) {
    bar->show(now);
    return true;
  };
}

}  // namespace lora
