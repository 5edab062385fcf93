#include "picture_text.h"

#include <algorithm>
#include <filesystem>
#include <set>

#include "check.h"
#include "lora/files.h"
#include "lora/text.h"
#include "lora/version.h"

namespace lora::cli {

namespace fs = std::filesystem;
using json = nlohmann::ordered_json;

namespace {

bool is_flag(const CLI::Option& option) { return option.get_items_expected_max() == 0; }

// The options of the command line, and of files with its defaults.
json given_options(const CLI::App& command) {
  auto all = json::object();
  for (const auto* option : command.get_options()) {
    const auto name = picture_name(*option);
    if (option->count() == 0 || !is_of_picture(name)) continue;
    const auto words = option->results();
    if (is_flag(*option))
      all[name] = words.front() != "false";
    else if (option->get_items_expected_max() > 1)
      for (const auto& word : words) all[name].push_back(valid_utf8(word));
    else
      all[name] = valid_utf8(words.front());
  }
  return all;
}

std::string size_text(int width, int height) { return fmt::format("{}x{}", width, height); }

json options_of(const DrawnPicture& picture) {
  const auto& line = picture.drawing.line;
  const auto& call = picture.drawing.call;
  auto options = given_options(picture.command);
  options["prompt"] = valid_utf8(line.prompt);
  if (line.negative) options["negative"] = valid_utf8(*line.negative);
  options["seed"] = picture.seed;
  if (call.width > 0) options["size"] = size_text(call.width, call.height);
  if (call.num_inference_steps) options["steps"] = *call.num_inference_steps;
  if (call.guidance_scale) options["cfg"] = *call.guidance_scale;
  options["dtype"] = to_string(picture.pipe.dtype());
  return options;
}

// The number that a weight is on the text encoders and on the denoiser, as far as A1111's tags can say it.
std::pair<double, double> tag_weights(const json& weight) {
  if (weight.is_number()) return {weight, weight};
  if (weight.contains("weight")) return tag_weights(weight["weight"]);
  auto of = [&](const std::vector<const char*>& components) {
    for (const char* name : components)
      if (weight.contains(name) && weight[name].is_number()) return weight[name].get<double>();
    return 1.0;
  };
  return {of({"text_encoder", "text_encoder_2", "text_encoder_3"}), of({"unet", "transformer"})};
}

std::string tag(const std::string& name, const json& weight) {
  const auto [text_encoders, denoiser] = tag_weights(weight);
  if (text_encoders == denoiser) return fmt::format("<lora:{}:{}>", name, denoiser);
  return fmt::format("<lora:{}:{}:{}>", name, text_encoders, denoiser);
}

// The name of a model or VAE as A1111 has it: the file without its ending, or the folder.
std::string name_of(const std::string& path) {
  auto place = fs::path(path).lexically_normal();
  if (!place.has_filename()) place = place.parent_path();
  const bool is_file = place.extension() == ".safetensors" || place.extension() == ".ckpt";
  return (is_file ? place.stem() : place.filename()).string();
}

Infotext infotext_of(const DrawnPicture& picture, const json& options) {
  const auto& call = picture.drawing.call;
  Infotext text{.prompt = picture.drawing.line.prompt, .negative = picture.drawing.line.negative.value_or("")};
  std::vector<std::pair<std::string, std::string>> hashes;
  for (const auto* lora : picture.loras) {
    text.prompt += (text.prompt.empty() ? "" : " ") + tag(lora->name, lora->weight_on(picture.pipe));
    if (!lora->a1111_hash.empty()) hashes.emplace_back(lora->name, lora->a1111_hash.substr(0, 12));
  }
  auto add = [&](const char* name, const std::string& value) {
    if (!value.empty()) text.fields.emplace_back(name, value);
  };
  auto given = [&](const char* name) { return options.contains(name) ? options[name].get<std::string>() : ""; };
  const auto [sampler, type] = sampler_of(*picture.pipe.scheduler);
  add("Steps", std::to_string(call.num_inference_steps.value_or(picture.steps)));
  add("Sampler", sampler);
  add("Schedule type", type);
  if (call.guidance_scale) add("CFG scale", fmt::format("{}", *call.guidance_scale));
  add("Seed", std::to_string(picture.seed));
  add("Size", size_text(picture.width, picture.height));
  add("Model", name_of(options["model"].get<std::string>()));
  add("VAE", given("vae").empty() ? "" : name_of(given("vae")));
  add("Denoising strength", given("strength"));
  if (call.clip_skip) add("Clip skip", std::to_string(*call.clip_skip + 1));  // A1111 counts from 1
  add("Mask blur", given("mask-blur"));
  add("Lora hashes", lora_hashes_field(hashes));
  add("Version", std::string("lora.cpp ") + version());
  return text;
}

}  // namespace

json json_object(const std::string& text) {
  constexpr int kDeepest = 32;
  auto is_shallow = [](int depth, json::parse_event_t, json&) { return depth < kDeepest; };
  auto value = json::parse(text, is_shallow, /*allow_exceptions=*/false);
  return value.is_object() ? value : json();
}

std::string picture_name(const CLI::Option& option) {
  if (option.get_positional()) return option.get_name(true) == "MODEL" ? "model" : "";
  const auto& names = option.get_lnames();
  return names.empty() ? "" : names.front();
}

bool is_of_picture(const std::string& name) {
  // A prompt is kept with its styles, and LoRAs are kept apart.
  static const std::set<std::string> others{
      "",        "output", "count",  "json", "yes",      "threads",   "device",     "config",     "help",   "from",
      "prompts", "style",  "styles", "lora", "lora-dir", "cache-dir", "batch-size", "low-memory", "verbose"};
  return !others.contains(name);
}

LoraOfPicture::LoraOfPicture(const LoraArgument& lora, const LoadReport& report)
    : argument(lora), name(LoraPlace(lora.file).adapter_name()) {
  std::error_code error;
  if (!fs::is_regular_file(report.source, error)) return;
  const auto hashes = hash_file(report.source);
  sha256 = hashes.file;
  a1111_hash = hashes.a1111;
}

json LoraOfPicture::weight_on(const DiffusionPipeline& pipe) const {
  if (argument.text_encoders) {
    auto weights = json::object();
    for (const auto& component : pipe.models())
      weights[component.name] = weights.empty() ? *argument.weight.number() : *argument.text_encoders;
    return weights;
  }
  if (!argument.text.starts_with('{')) return *argument.weight.number();
  auto weight = json::parse(argument.text);
  weight.erase("images");
  if (weight.empty()) return 1.0;
  return weight;
}

std::map<std::string, std::string> texts_of(const DrawnPicture& picture) {
  auto options = options_of(picture);
  auto loras = json::array();
  for (const auto* lora : picture.loras) {
    json row{{"file", valid_utf8(lora->argument.file)}, {"weight", lora->weight_on(picture.pipe)}};
    if (!lora->a1111_hash.empty()) row.update({{"hash", lora->a1111_hash}, {"sha256", lora->sha256}});
    loras.push_back(row);
  }
  const json own{{"version", version()},
                 {"pipeline", picture.pipe.class_name()},
                 {"scheduler", picture.pipe.scheduler->class_name()},
                 {"steps_of_run", picture.steps},
                 {"options", options},
                 {"loras", loras}};
  return {{kOwnText, own.dump(-1, ' ', /*ensure_ascii=*/true)},
          {kSeedText, std::to_string(picture.seed)},
          {kA1111Text, write_infotext(infotext_of(picture, options))}};
}

}  // namespace lora::cli
