#include "pipelines/pipeline_files.h"

#include "checkpoints/single_file.h"
#include "core/check.h"
#include "core/text.h"
#include "io/json_file.h"
#include "pipelines/hub_files.h"
#include "tokenizers/tokenizer_files.h"

namespace lora {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

// diffusers has a class each for text to image, image-to-image and inpainting. One pipeline here runs all classes of a
// prefix. The first prefix that fits counts.
constexpr std::pair<std::string_view, std::string_view> kPipelineOfPrefix[] = {
    {"StableDiffusionXL", "StableDiffusionXLPipeline"},
    {"StableDiffusion3", "StableDiffusion3Pipeline"},
    {"StableDiffusion", "StableDiffusionPipeline"},
    {"LatentConsistencyModel", "StableDiffusionPipeline"},
    {"Amused", "AmusedPipeline"},
};

// The row of the pipeline that runs a class; nullptr where none does.
const BaseModelRow* row_that_runs(std::string_view class_name) {
  for (auto [prefix, pipeline] : kPipelineOfPrefix)
    if (class_name.starts_with(prefix)) return row_of_pipeline(pipeline);
  return nullptr;
}

std::string runnable_models() {
  std::vector<std::string> labels;
  for (const auto& row : base_models())
    if (row_that_runs(row.pipeline)) labels.emplace_back(row.label);
  return join(labels, ", ");
}

// A scheduler's config, with Python's infinities as texts. Schedulers read those as well.
json config_of(const Scheduler& scheduler) {
  return json::parse(replace_all(scheduler.config(), ": -Infinity", ": \"-Infinity\""));
}

// diffusers' StableDiffusionPipeline corrects the schedulers of early repositories in the same way.
std::string corrected_scheduler(const std::string& text) {
  auto config = config_of(*Scheduler::from_config(text));
  if (config.contains("steps_offset")) config["steps_offset"] = 1;
  if (config.contains("clip_sample")) config["clip_sample"] = false;
  return config.dump();
}

}  // namespace

PipelineFiles::PipelineFiles(fs::path path, const PipelineOptions& options, std::string_view wanted)
    : path_(std::move(path)), label_(path_.string()), options_(options) {
  std::optional<Repository> repository;
  if (is_repository(path_)) {
    repository.emplace(label_, options.hub);
    label_ = repository->label;
    path_ = fetch_index(*repository);
  }
  check(fs::exists(path_), ErrorKind::not_found, "{}: there is no such model folder or checkpoint; {}", label_,
        why_only_a_path(path_));
  check(!options.device.is_meta(), ErrorKind::usage, "device is meta. Tensors on it have no numbers: give another");
  const auto class_name = read();
  row_ = row_that_runs(class_name);
  check(row_ != nullptr, ErrorKind::unsupported,
        "{}: the pipeline is of class {}, which is not supported. The supported models are {}", label_, class_name,
        runnable_models());
  check(wanted.empty() || wanted == row_->pipeline, ErrorKind::unsupported,
        "{}: the pipeline is of class {}, but the caller opens it as {}", label_, class_name, wanted);
  if (repository) fetch_components(*repository, models_in_index(), options_.variant);
}

std::string PipelineFiles::read() {
  if (!fs::is_directory(path_)) {
    auto file = open_single_file(path_);
    single_ = std::move(file.components);
    scheduler_config_ = std::move(file.scheduler_config);
    return file.pipeline_class;
  }
  check(fs::exists(path_ / "model_index.json"), ErrorKind::not_found,
        "{}: the folder has no model_index.json, so it is not a diffusers pipeline", label_);
  index_ = read_json(path_ / "model_index.json");
  auto name = index_.find("_class_name");
  check(index_.is_object() && name != index_.end() && name->is_string(), ErrorKind::bad_file,
        "{}: model_index.json does not name the pipeline's class in _class_name", label_);
  return *name;
}

bool PipelineFiles::has(const std::string& component) const {
  if (!is_folder()) return single_.contains(component);
  auto entry = index_.find(component);
  return entry != index_.end() && entry->is_array() && entry->size() == 2 && entry->at(1).is_string();
}

void PipelineFiles::check_class(const std::string& component) const {
  check(has(component), ErrorKind::bad_file, "{}: {} has no {}", label_,
        is_folder() ? "model_index.json" : "the checkpoint", component);
  if (!is_folder()) return;
  const auto wanted = row_->component(component)->class_name;
  const auto given = index_[component].at(1).get<std::string>();
  check(given == wanted, ErrorKind::unsupported, "{}: {} is of class {}. {} supports only {}", label_, component, given,
        row_->pipeline, wanted);
}

std::map<std::string, std::string> PipelineFiles::models_in_index() const {
  std::map<std::string, std::string> models;
  for (const auto& row : row_->components) {
    const std::string component(row.name);
    if (!has(component)) continue;
    check_class(component);
    models[component] = row.class_name;
  }
  return models;
}

AutoencoderKL PipelineFiles::vae_in_float32() const {
  check_class("vae");
  auto config = is_folder() ? read_json(path_ / "vae" / "config.json") : json::parse(single_.at("vae").config);
  auto options = model_options();
  if (config.value("force_upcast", true)) options.dtype = at::kFloat;
  return open<AutoencoderKL>("vae", options);
}

std::future<CLIPTokenizer> PipelineFiles::tokenizer(const std::string& component, const std::string& pad_token) const {
  auto folder = is_folder() ? path_ / component : fs::path();
  return std::async(std::launch::async, [folder, pad_token] {
    return folder.empty() ? CLIPTokenizer::openai(pad_token) : CLIPTokenizer::from_pretrained(folder);
  });
}

T5Tokenizer PipelineFiles::t5_tokenizer(const std::string& component) const {
  if (is_folder()) return T5Tokenizer::from_pretrained(path_ / component);
  auto beside = path_.parent_path() / component;
  check(
      fs::is_directory(beside), ErrorKind::not_found,
      "{}: the checkpoint has a T5 text encoder, but no tokenizer for it. Put the folder {} of the model's repository "
      "beside the file",
      label_, component);
  return T5Tokenizer::from_pretrained(beside);
}

std::unique_ptr<Scheduler> PipelineFiles::scheduler() const {
  auto config = is_folder() ? Scheduler::from_pretrained(path_ / "scheduler")->config() : scheduler_config_;
  if (pipeline_class() == "StableDiffusionPipeline") config = corrected_scheduler(config);
  return Scheduler::from_config(config, options_.scheduler);
}

bool PipelineFiles::flag(const std::string& name, bool fallback) const {
  auto value = is_folder() ? index_.value(name, json()) : json();
  return value.is_boolean() ? value.get<bool>() : fallback;
}

Dtype PipelineFiles::stored_dtype() const {
  const std::string denoiser(row_->denoiser());
  check_class(denoiser);
  auto dtype_of = [](const Checkpoint& checkpoint) { return checkpoint.tensors.begin()->second.scalar_type(); };
  return is_folder() ? dtype_of(open_component(path_ / denoiser, kDiffusersFiles, options_.variant))
                     : dtype_of(single_.at(denoiser));
}

// ---- Writing --------------------------------------------------------------------------------------------------------

PipelineFolder::PipelineFolder(const fs::path& folder)
    : out_(folder, {.marks = {"model_index.json"}, .replaces = [](auto& file) {
                      auto name = file.filename().string();
                      return file.has_parent_path() && (is_weight_file(name) || is_tokenizer_file(name));
                    }}) {}

void PipelineFolder::add(const std::string& component, const Model& model) {
  model.save_pretrained(path() / component);
  index_[component] = {library_of(model.class_name()), model.class_name()};
}

void PipelineFolder::add(const std::string& component, const CLIPTokenizer& tokenizer) {
  tokenizer.save_pretrained(path() / component);
  index_[component] = {"transformers", "CLIPTokenizer"};
}

void PipelineFolder::add(const std::string& component, const T5Tokenizer& tokenizer) {
  tokenizer.save_pretrained(path() / component);
  index_[component] = {"transformers", "T5TokenizerFast"};
}

void PipelineFolder::add(const Scheduler& scheduler) {
  std::error_code error;
  fs::create_directory(path() / "scheduler", error);
  check(!error, ErrorKind::io, "{}: cannot be created: {}", (path() / "scheduler").string(), error.message());
  write_text(path() / "scheduler" / "scheduler_config.json", scheduler.config() + "\n");
  index_["scheduler"] = {"diffusers", scheduler.class_name()};
}

void PipelineFolder::add_missing(std::initializer_list<std::string> components) {
  for (const auto& component : components) index_[component] = {nullptr, nullptr};
}

void PipelineFolder::finish() {
  write_text(path() / "model_index.json", index_.dump(2) + "\n");
  out_.commit();
}

}  // namespace lora
