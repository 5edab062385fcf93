#include "pipelines/pipeline_files.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "checkpoints/float8.h"
#include "checkpoints/single_file.h"
#include "checkpoints/text_encoder_file.h"
#include "checkpoints/vae_file.h"
#include "core/check.h"
#include "core/text.h"
#include "io/json_file.h"
#include "pipelines/call_options.h"
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

// Before weights are read: libtorch refuses a device at the first tensor only.
void check_device(const Device& device) {
  check(!device.is_meta(), ErrorKind::usage, "device is meta. Tensors on it have no numbers: give another");
  if (!device.is_cuda()) return;
  const int devices = at::hasCUDA() ? int(at::getNumGPUs()) : 0;
  check(devices > 0, ErrorKind::usage,
        "device is {}, but libtorch finds no GPU: this machine has none, or this libtorch is built without CUDA. Give "
        "cpu",
        device.str());
  check(!device.has_index() || device.index() < devices, ErrorKind::usage,
        "device is {}, but this machine has cuda:0 to cuda:{}", device.str(), devices - 1);
}

// A scheduler's config, with Python's infinities as texts. Schedulers read those as well.
json config_of(const Scheduler& scheduler) {
  return json::parse(replace_all(scheduler.config(), ": -Infinity", ": \"-Infinity\""));
}

// Sets a field of a scheduler's config, and takes it out of the list of those that have their default.
void set_field(json& config, const char* name, const json& value) {
  config[name] = value;
  if (auto list = config.find("_use_default_values"); list != config.end() && list->is_array())
    list->erase(std::remove(list->begin(), list->end(), name), list->end());
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
  check_device(options.device);
  const auto class_name = read();
  row_ = row_that_runs(class_name);
  check(row_ != nullptr, ErrorKind::unsupported,
        "{}: the pipeline is of class {}, which is not supported. The supported models are {}", label_, class_name,
        runnable_models());
  check(wanted.empty() || wanted == row_->pipeline, ErrorKind::unsupported,
        "{}: the pipeline is of class {}, but the caller opens it as {}", label_, class_name, wanted);
  given_ = given_text_encoders();
  if (repository) {
    choose_variants([&](const std::string& component) { return names_below(repository->files, component + "/"); });
    fetch_components(*repository, models_in_index(), variants_, given_);
  } else if (is_folder_) {
    choose_variants([&](const std::string& component) { return file_names(path_ / component); });
  } else {
    check(options.variant.empty(), ErrorKind::usage,
          "{}: variant is \"{}\", but a single file has no variants. Leave it out", label_, options.variant);
  }
  if (!options.vae.empty()) open_given_vae();
  open_given_text_encoders();
  if (row_->component("text_encoder_3") && !has("text_encoder_3"))
    notes_.push_back(fmt::format(
        "{}: has no text_encoder_3 (T5). Zeros stand in for its states, as in diffusers. Give one as text_encoders",
        label_));
  if (!row_->component("vae")) return;
  check_class("vae");
  check(components_.contains("vae") || fs::exists(path_ / "vae"), ErrorKind::not_found,
        "{}: the folder vae is missing. Give one as vae", label_);
}

void PipelineFiles::open_given_vae() {
  check(row_->component("vae"), ErrorKind::usage, "{}: vae is {}, but {} has a VQ model in its place. Leave it out",
        label_, options_.vae.string(), row_->pipeline);
  const int64_t default_channels = row_->pipeline == "StableDiffusion3Pipeline" ? 16 : 4;  // as in diffusers
  auto denoiser = component_config(std::string(row_->denoiser()));
  if (!denoiser.is_object()) denoiser = json::object();  // it is missing, which is told later
  auto vae = open_vae(options_.vae,
                      {.pipeline = row_->pipeline,
                       .model = label_,
                       .latent_channels = denoiser.value("out_channels", default_channels),
                       .own = component_config("vae")},
                      options_.variant, notes_);
  components_.insert_or_assign("vae", std::move(vae));
}

std::map<std::string, fs::path> PipelineFiles::given_text_encoders() const {
  std::map<std::string, fs::path> given;
  for (const auto& [name, path] : options_.text_encoders) {
    const auto component = text_encoder_component(name);
    check(!component.empty(), ErrorKind::usage,
          "text_encoders has \"{}\", which is no text encoder. It takes clip_l, clip_g, t5xxl, text_encoder, "
          "text_encoder_2 and text_encoder_3",
          name);
    check(row_->component(component), ErrorKind::usage, "text_encoders has \"{}\", but {} has no {}. Leave it out",
          name, row_->pipeline, component);
    check(given.emplace(component, path).second, ErrorKind::usage, "text_encoders has the {} twice. Give it once",
          component);
  }
  return given;
}

void PipelineFiles::open_given_text_encoders() {
  for (const auto& [component, path] : given_) {
    auto encoder = open_text_encoder(path,
                                     {.component = component,
                                      .class_name = std::string(row_->component(component)->class_name),
                                      .pipeline = row_->pipeline,
                                      .model = label_,
                                      .own = component_config(component)},
                                     options_.variant, notes_);
    components_.insert_or_assign(component, std::move(encoder));
  }
  if (given_.empty() && is_folder_) return;
  std::map<std::string, json> configs;
  for (const auto& row : row_->components)
    if (const std::string component(row.name); component.starts_with("text_encoder") && has(component)) {
      check_class(component);
      configs[component] = component_config(component);
    }
  check_text_encoders_fit(configs, component_config(std::string(row_->denoiser())), row_->pipeline, label_);
}

json PipelineFiles::component_config(const std::string& component) const {
  if (auto found = components_.find(component); found != components_.end()) return json::parse(found->second.config);
  const auto file = path_ / component / "config.json";
  return is_folder_ && fs::exists(file) ? read_json(file) : json();
}

template <class NamesIn>
void PipelineFiles::choose_variants(NamesIn names_in) {
  if (options_.variant.empty()) return;
  std::vector<std::string> without;
  for (const auto& [component, class_name] : models_in_index()) {
    const auto names = names_in(component);
    const auto& files = weight_files_of(class_name);
    const bool falls_back = !has_variant(names, files, options_.variant) && has_variant(names, files, "");
    variants_[component] = falls_back ? "" : options_.variant;
    if (falls_back) without.push_back(component);
  }
  check(without.size() < variants_.size(), ErrorKind::not_found,
        "{}: no component has weights of variant \"{}\". Leave variant out, or give one that the model has", label_,
        options_.variant);
  if (!without.empty())
    notes_.push_back(fmt::format("{}: no weights of variant \"{}\" in {}: read without a variant", label_,
                                 options_.variant, join(without, ", ")));
}

std::string PipelineFiles::read() {
  if (!fs::is_directory(path_)) {
    auto file = open_single_file(path_);
    is_folder_ = false;
    components_ = std::move(file.components);
    scheduler_config_ = std::move(file.scheduler_config);
    notes_ = std::move(file.notes);
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
  if (!is_folder_ || components_.contains(component)) return components_.contains(component);
  auto entry = index_.find(component);
  return entry != index_.end() && entry->is_array() && entry->size() == 2 && entry->at(1).is_string();
}

void PipelineFiles::check_class(const std::string& component) const {
  if (components_.contains(component)) return;
  check(has(component), ErrorKind::bad_file, "{}: {} has no {}", label_,
        is_folder_ ? "model_index.json" : "the checkpoint",
        component == "vae"                      ? "VAE. Give one as vae"
        : component.starts_with("text_encoder") ? component + ". Give one as text_encoders"
                                                : component);
  const auto wanted = row_->component(component)->class_name;
  const auto given = index_[component].at(1).get<std::string>();
  check(given == wanted, ErrorKind::unsupported, "{}: {} is of class {}. {} supports only {}", label_, component, given,
        row_->pipeline, wanted);
}

std::map<std::string, std::string> PipelineFiles::models_in_index() const {
  std::map<std::string, std::string> models;
  for (const auto& row : row_->components) {
    const std::string component(row.name);
    if (!has(component) || is_given(component)) continue;
    check_class(component);
    models[component] = row.class_name;
  }
  return models;
}

AutoencoderKL PipelineFiles::vae_in_float32() const {
  check_class("vae");
  const auto config = component_config("vae");
  auto options = model_options("vae");
  if (config.value("force_upcast", true)) options.dtype = at::kFloat;
  return open<AutoencoderKL>("vae", options);
}

std::future<CLIPTokenizer> PipelineFiles::tokenizer(const std::string& component, const std::string& pad_token) const {
  auto folder = is_folder_ ? path_ / component : fs::path();
  if (is_given(replace_all(component, "tokenizer", "text_encoder")) && !fs::exists(folder)) folder.clear();
  return std::async(std::launch::async, [folder, pad_token] {
    return folder.empty() ? CLIPTokenizer::openai(pad_token) : CLIPTokenizer::from_pretrained(folder);
  });
}

T5Tokenizer PipelineFiles::t5_tokenizer(const std::string& component) const {
  std::vector<fs::path> places{(is_folder_ ? path_ : path_.parent_path()) / component};
  const auto given = given_.find(replace_all(component, "tokenizer", "text_encoder"));
  if (given != given_.end())
    for (auto folder = fs::absolute(given->second).lexically_normal(); places.size() < 3;)
      places.push_back((folder = folder.parent_path()) / component);
  for (const auto& place : places)
    if (fs::is_directory(place)) return T5Tokenizer::from_pretrained(place);
  check(!is_folder_ || given != given_.end(), ErrorKind::not_found, "{}: the folder {} is missing", label_, component);
  fail(ErrorKind::not_found,
       "{}: {} a T5 text encoder, but no tokenizer for it. Put the folder {} of the model's repository beside the file",
       given == given_.end() ? label_ : given->second.string(), given == given_.end() ? "the checkpoint has" : "is",
       component);
}

// The config of the model's own scheduler, with the defaults of its class. If that class or a value is not supported
// and another scheduler is chosen, the config has only the fields of the file.
json PipelineFiles::own_scheduler_config() const {
  const auto folder = path_ / "scheduler";
  try {
    return config_of(is_folder_ ? *Scheduler::from_pretrained(folder) : *Scheduler::from_config(scheduler_config_));
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::unsupported) throw;
    check(!options_.scheduler.empty(), ErrorKind::unsupported,
          "{}; to draw with another one, give its name as scheduler", error.what());
  }
  auto given = parse_scheduler_config(is_folder_ ? read_text(folder / "scheduler_config.json") : scheduler_config_);
  given.emplace("steps_offset", 0);  // the default of all classes that have it
  return given;
}

std::unique_ptr<Scheduler> PipelineFiles::scheduler() const {
  const auto predicts = pipeline_class() == "StableDiffusion3Pipeline" ? Predicts::flow
                        : pipeline_class() == "AmusedPipeline"         ? Predicts::tokens
                                                                       : Predicts::noise;
  // A model for flow matching can have a class for noise, which its config sets to flow matching.
  auto config = own_scheduler_config();
  if (config.value("prediction_type", json()) != "flow_prediction")
    check_scheduler_fits(options_.scheduler, predicts, pipeline_class());
  // diffusers' StableDiffusionPipeline corrects the schedulers of early repositories in the same way.
  if (pipeline_class() == "StableDiffusionPipeline") {
    if (config.contains("steps_offset")) set_field(config, "steps_offset", 1);
    if (config.contains("clip_sample")) set_field(config, "clip_sample", false);
  }
  const auto& prediction_type = options_.prediction_type;
  if (!prediction_type.empty()) set_field(config, "prediction_type", prediction_type);
  auto made = Scheduler::from_config(config.dump(), options_.scheduler);
  check(prediction_type.empty() || has_field(made->class_name(), "prediction_type"), ErrorKind::usage,
        "{}: prediction_type is \"{}\", but {} does not take one. Leave it out", label_, prediction_type,
        made->class_name());
  return made;
}

bool PipelineFiles::flag(const std::string& name, bool fallback) const {
  auto value = is_folder_ ? index_.value(name, json()) : json();
  return value.is_boolean() ? value.get<bool>() : fallback;
}

Dtype PipelineFiles::stored_dtype() const {
  const std::string denoiser(row_->denoiser());
  check_class(denoiser);
  auto dtype_of = [](const Checkpoint& checkpoint) {
    const auto dtype = checkpoint.tensors.begin()->second.scalar_type();
    return is_float8(dtype) ? at::kBFloat16 : dtype;  // no model can run in float8
  };
  return is_folder_ ? dtype_of(open_component(path_ / denoiser, kDiffusersFiles, variant_of(denoiser)))
                    : dtype_of(components_.at(denoiser));
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
