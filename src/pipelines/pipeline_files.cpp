#include "pipelines/pipeline_files.h"

#include "checkpoints/single_file.h"
#include "core/check.h"
#include "core/text.h"
#include "io/atomic_file.h"
#include "io/json_file.h"
#include "pipelines/hub_files.h"

namespace lora {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

// The first row whose prefix a class name has: image-to-image and inpainting classes are calls of the same pipeline.
constexpr std::pair<const char*, PipelineFamily> kFamilies[] = {
    {"StableDiffusionXL", PipelineFamily::stable_diffusion_xl},
    {"StableDiffusion3", PipelineFamily::stable_diffusion_3},
    {"StableDiffusion", PipelineFamily::stable_diffusion},
    {"LatentConsistencyModel", PipelineFamily::stable_diffusion},
    {"Amused", PipelineFamily::amused},
};

const char* name_of(PipelineFamily family) {
  switch (family) {
    case PipelineFamily::stable_diffusion: return "StableDiffusionPipeline";
    case PipelineFamily::stable_diffusion_xl: return "StableDiffusionXLPipeline";
    case PipelineFamily::stable_diffusion_3: return "StableDiffusion3Pipeline";
    case PipelineFamily::amused: return "AmusedPipeline";
  }
  return "";
}

// The classes that each component may be of.
const std::map<std::string, std::vector<std::string>>& classes(PipelineFamily family) {
  using Classes = std::map<std::string, std::vector<std::string>>;
  static const std::map<PipelineFamily, Classes> all = {
      {PipelineFamily::stable_diffusion,
       {{"unet", {"UNet2DConditionModel"}}, {"text_encoder", {"CLIPTextModel"}}, {"vae", {"AutoencoderKL"}}}},
      {PipelineFamily::stable_diffusion_xl,
       {{"unet", {"UNet2DConditionModel"}},
        {"text_encoder", {"CLIPTextModel"}},
        {"text_encoder_2", {"CLIPTextModelWithProjection"}},
        {"vae", {"AutoencoderKL"}}}},
      {PipelineFamily::stable_diffusion_3,
       {{"transformer", {"SD3Transformer2DModel"}},
        {"text_encoder", {"CLIPTextModelWithProjection"}},
        {"text_encoder_2", {"CLIPTextModelWithProjection"}},
        {"text_encoder_3", {"T5EncoderModel"}},
        {"vae", {"AutoencoderKL"}}}},
      {PipelineFamily::amused,
       {{"transformer", {"UVit2DModel"}}, {"text_encoder", {"CLIPTextModelWithProjection"}}, {"vqvae", {"VQModel"}}}},
  };
  return all.at(family);
}

// Schedulers of early repositories are corrected by the pipeline, whatever their file says or leaves out.
std::string corrected_scheduler(const std::string& text) {
  auto config = config_of(*Scheduler::from_config(text));
  if (config.contains("steps_offset")) config["steps_offset"] = 1;
  if (config.contains("clip_sample")) config["clip_sample"] = false;
  return config.dump();
}

}  // namespace

json config_of(const Scheduler& scheduler) {
  return json::parse(replace_all(scheduler.config(), ": -Infinity", ": \"-Infinity\""));
}

PipelineFamily family_of(const std::string& class_name, const std::string& label) {
  for (auto [prefix, family] : kFamilies)
    if (class_name.starts_with(prefix)) return family;
  fail(ErrorKind::unsupported,
       "{}: the pipeline is of class {}; pipelines of Stable Diffusion 1, 2, XL and 3, and of aMUSEd can be run", label,
       class_name);
}

PipelineFiles::PipelineFiles(fs::path path, const PipelineOptions& options, std::optional<PipelineFamily> wanted)
    : path_(std::move(path)), label_(path_.string()), options_(options) {
  std::optional<Repository> repository;
  if (is_repository(path_)) {
    repository.emplace(label_, options.hub);
    label_ = repository->label;
    path_ = fetch_index(*repository);
  }
  check(fs::exists(path_), ErrorKind::not_found, "{}: there is no such model folder or checkpoint; {}", label_,
        kRepositoryForm);
  check(!options.device.is_meta(), ErrorKind::usage, "device is meta, on which nothing can be computed");
  std::string class_name;
  if (fs::is_directory(path_)) {
    check(fs::exists(path_ / "model_index.json"), ErrorKind::not_found,
          "{}: no model_index.json in this folder, so it is no diffusers pipeline", label_);
    index_ = read_json(path_ / "model_index.json");
    auto name = index_.find("_class_name");
    check(index_.is_object() && name != index_.end() && name->is_string(), ErrorKind::bad_file,
          "{}: model_index.json does not name the class of the pipeline as _class_name", label_);
    class_name = *name;
  } else {
    auto file = open_single_file(path_);
    class_name = file.pipeline_class;
    single_ = std::move(file.components);
    scheduler_config_ = std::move(file.scheduler_config);
  }
  family_ = family_of(class_name, label_);
  check(!wanted || family_ == *wanted, ErrorKind::unsupported,
        "{}: the pipeline is of class {}; {} is what was asked for", label_, class_name,
        name_of(wanted.value_or(family_)));
  if (repository) fetch_components(*repository, models_in_index(), options_.variant);
}

bool PipelineFiles::has(const std::string& component) const {
  if (!is_folder()) return single_.contains(component);
  auto entry = index_.find(component);
  return entry != index_.end() && entry->is_array() && entry->size() == 2 && entry->at(1).is_string();
}

void PipelineFiles::check_class(const std::string& component) const {
  check(has(component), ErrorKind::bad_file, "{}: {} no {}", label_,
        is_folder() ? "model_index.json names" : "the checkpoint has", component);
  if (!is_folder()) return;
  const auto& known = classes(family_).at(component);
  auto given = index_[component].at(1).get<std::string>();
  check(std::find(known.begin(), known.end(), given) != known.end(), ErrorKind::unsupported,
        "{}: {} is of class {}; {} is what can be run", label_, component, given, join(known, " or "));
}

std::map<std::string, std::string> PipelineFiles::models_in_index() const {
  std::map<std::string, std::string> models;
  for (const auto& [component, known] : classes(family_)) {
    if (!has(component)) continue;
    check_class(component);
    models[component] = index_[component].at(1);
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
  check(fs::is_directory(beside), ErrorKind::not_found,
        "{}: the checkpoint has a T5 text encoder, but checkpoints hold no tokenizer for it; put the folder {} of the "
        "model's repository beside the file",
        label_, component);
  return T5Tokenizer::from_pretrained(beside);
}

std::unique_ptr<Scheduler> PipelineFiles::scheduler() const {
  auto config = is_folder() ? Scheduler::from_pretrained(path_ / "scheduler")->config() : scheduler_config_;
  if (family_ == PipelineFamily::stable_diffusion) config = corrected_scheduler(config);
  return Scheduler::from_config(config, options_.scheduler);
}

bool PipelineFiles::flag(const std::string& name, bool fallback) const {
  auto value = is_folder() ? index_.value(name, json()) : json();
  return value.is_boolean() ? value.get<bool>() : fallback;
}

Dtype PipelineFiles::stored_dtype() const {
  const char* denoiser = classes(family_).contains("unet") ? "unet" : "transformer";
  check_class(denoiser);
  auto dtype_of = [](const Checkpoint& checkpoint) { return checkpoint.tensors.begin()->second.scalar_type(); };
  return is_folder() ? dtype_of(open_component(path_ / denoiser, kDiffusersFiles, options_.variant))
                     : dtype_of(single_.at(denoiser));
}

Dtype stored_dtype(const fs::path& path, const PipelineOptions& options) {
  return PipelineFiles(path, options).stored_dtype();
}

// ---- Writing --------------------------------------------------------------------------------------------------------

PipelineFolder::PipelineFolder(fs::path folder) : folder_(std::move(folder)) {
  check(!fs::exists(folder_) || fs::is_directory(folder_), ErrorKind::io, "{}: is a file; a folder is wanted",
        folder_.string());
  std::error_code error;
  fs::create_directories(folder_ / "scheduler", error);
  check(!error, ErrorKind::io, "{}: the folder cannot be made: {}", folder_.string(), error.message());
}

void PipelineFolder::add(const std::string& component, const Model& model) {
  model.save_pretrained(folder_ / component);
  index_[component] = {library_of(model.class_name()), model.class_name()};
}

void PipelineFolder::add(const std::string& component, const CLIPTokenizer& tokenizer) {
  tokenizer.save_pretrained(folder_ / component);
  index_[component] = {"transformers", "CLIPTokenizer"};
}

void PipelineFolder::add(const std::string& component, const T5Tokenizer& tokenizer) {
  tokenizer.save_pretrained(folder_ / component);
  index_[component] = {"transformers", "T5TokenizerFast"};
}

void PipelineFolder::add(const Scheduler& scheduler) {
  write_text(folder_ / "scheduler" / "scheduler_config.json", scheduler.config() + "\n");
  index_["scheduler"] = {"diffusers", scheduler.class_name()};
}

void PipelineFolder::add_nothing(const std::string& component) { index_[component] = {nullptr, nullptr}; }

void PipelineFolder::finish(const std::string& class_name) {
  index_["_class_name"] = class_name;
  write_text(folder_ / "model_index.json", index_.dump(2) + "\n");
}

}  // namespace lora
