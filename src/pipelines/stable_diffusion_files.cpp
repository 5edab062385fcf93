// StableDiffusionPipeline from and to files.
#include <future>
#include <nlohmann/json.hpp>

#include "core/check.h"
#include "core/text.h"
#include "io/atomic_file.h"
#include "io/json_file.h"
#include "lora/pipeline.h"
#include "models/ldm_checkpoint.h"
#include "models/loading.h"

namespace lora {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

// A config as our schedulers write it, with Python's infinities as texts, which they read as well.
json parse_written(const std::string& config) {
  return json::parse(replace_all(config, ": -Infinity", ": \"-Infinity\""));
}

// Schedulers of early repositories are corrected by the pipeline, whatever their file says or leaves out.
std::string corrected_scheduler(const std::string& text) {
  auto config = parse_written(Scheduler::from_config(text)->config());
  if (config.contains("steps_offset")) config["steps_offset"] = 1;
  if (config.contains("clip_sample")) config["clip_sample"] = false;
  return config.dump();
}

void check_index(const json& index, const std::string& label) {
  auto name = index.value("_class_name", "");
  check(name.starts_with("StableDiffusion") && !name.starts_with("StableDiffusionXL") &&
            !name.starts_with("StableDiffusion3"),
        ErrorKind::unsupported, "{}: the pipeline is of class {}; StableDiffusionPipeline is what can be run", label,
        name);
  for (auto [component, wanted] :
       {std::pair{"unet", "UNet2DConditionModel"}, {"text_encoder", "CLIPTextModel"}, {"vae", "AutoencoderKL"}}) {
    check(index.contains(component), ErrorKind::bad_file, "{}: model_index.json names no {}", label, component);
    auto given = index[component].at(1).get<std::string>();
    check(given == wanted, ErrorKind::unsupported, "{}: {} is of class {}; {} is what can be run", label, component,
          given, wanted);
  }
}

}  // namespace

StableDiffusionPipeline StableDiffusionPipeline::from_pretrained(const fs::path& path, const PipelineOptions& options) {
  check(fs::exists(path), ErrorKind::not_found, "{}: there is no such model folder or checkpoint", path.string());
  ModelOptions model{.dtype = options.dtype, .device = options.device, .variant = options.variant};
  StableDiffusionPipeline pipe;
  std::string scheduler_config;
  if (fs::is_directory(path)) {
    check(fs::exists(path / "model_index.json"), ErrorKind::not_found,
          "{}: no model_index.json in this folder, so it is no diffusers pipeline", path.string());
    check_index(read_json(path / "model_index.json"), path.string());
    // The vocabulary takes longer to read than all the weights take to map.
    auto tokenizer = std::async(std::launch::async, [&] { return CLIPTokenizer::from_pretrained(path / "tokenizer"); });
    pipe.unet = UNet2DConditionModel::from_pretrained(path / "unet", model);
    pipe.text_encoder = CLIPTextModel::from_pretrained(path / "text_encoder", model);
    pipe.vae = AutoencoderKL::from_pretrained(path / "vae", model);
    scheduler_config = Scheduler::from_pretrained(path / "scheduler")->config();
    pipe.tokenizer = tokenizer.get();
  } else {
    auto [unet, vae, text_encoder, scheduler] = open_ldm_checkpoint(path);
    pipe.unet = UNet2DConditionModel::from_state_dict(unet.config, unet.tensors, model, unet.label);
    pipe.text_encoder =
        CLIPTextModel::from_state_dict(text_encoder.config, text_encoder.tensors, model, text_encoder.label);
    pipe.vae = AutoencoderKL::from_state_dict(vae.config, vae.tensors, model, vae.label);
    // The tokenizer is CLIP's own; version 2 pads with another token, and is told by its wider text encoder.
    pipe.tokenizer = CLIPTokenizer::openai(pipe.text_encoder.hidden_size() == 1024 ? "!" : "<|endoftext|>");
    scheduler_config = scheduler;
  }
  pipe.scheduler = Scheduler::from_config(corrected_scheduler(scheduler_config), options.scheduler);
  return pipe;
}

Dtype stored_dtype(const fs::path& path, const std::string& variant) {
  auto tensors =
      fs::is_directory(path) ? open_component(path / "unet", kDiffusersFiles, variant).tensors : load_state_dict(path);
  for (const auto& [name, tensor] : tensors)
    if (name.ends_with("conv_in.weight") || name.ends_with("input_blocks.0.0.weight")) return tensor.scalar_type();
  fail(ErrorKind::bad_file, "{}: no UNet in it", path.string());
}

void StableDiffusionPipeline::save_pretrained(const fs::path& folder) const {
  check(!fs::exists(folder) || fs::is_directory(folder), ErrorKind::io, "{}: is a file; a folder is wanted",
        folder.string());
  std::error_code error;
  fs::create_directories(folder / "scheduler", error);
  check(!error, ErrorKind::io, "{}: the folder cannot be made: {}", folder.string(), error.message());
  unet.save_pretrained(folder / "unet");
  text_encoder.save_pretrained(folder / "text_encoder");
  vae.save_pretrained(folder / "vae");
  tokenizer.save_pretrained(folder / "tokenizer");
  write_text(folder / "scheduler" / "scheduler_config.json", scheduler->config() + "\n");
  json index{{"_class_name", "StableDiffusionPipeline"},
             {"feature_extractor", {nullptr, nullptr}},
             {"image_encoder", {nullptr, nullptr}},
             {"requires_safety_checker", false},
             {"safety_checker", {nullptr, nullptr}},
             {"scheduler", {"diffusers", scheduler->class_name()}},
             {"text_encoder", {"transformers", "CLIPTextModel"}},
             {"tokenizer", {"transformers", "CLIPTokenizer"}},
             {"unet", {"diffusers", "UNet2DConditionModel"}},
             {"vae", {"diffusers", "AutoencoderKL"}}};
  // Last, so that a folder that was not written whole is no pipeline.
  write_text(folder / "model_index.json", index.dump(2) + "\n");
}

}  // namespace lora
