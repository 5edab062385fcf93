#include "model_arguments.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "check.h"
#include "dtype_argument.h"
#include "lora/image.h"
#include "output.h"
#include "verbose.h"

namespace lora::cli {

static Device parse_device(const std::string& text) {
  try {
    Device device(text);
    if (device.is_cpu() || device.is_cuda()) return device;
  } catch (const std::exception&) {
  }
  throw Error(ErrorKind::usage,
              fmt::format("--device {}: no such device. Give cpu, cuda, or cuda:N such as cuda:1.", text));
}

static void tell_loaded(const LoadReport& report) {
  if (!is_verbose()) return;
  std::vector<std::string> parts;
  for (const auto& [component, layers] : report.components)
    parts.push_back(fmt::format("{} of {}", counted(layers.size(), "layer"), component));
  tell_verbose(fmt::format("{} loaded as {}: {}", report.source, report.adapter_name, fmt::join(parts, ", ")));
}

// The weight of a LoRA for a pipeline's components, of which the denoiser is the first.
static LoraScale weight_on(const DiffusionPipeline& pipe, const LoraArgument& lora) {
  if (!lora.text_encoders) return lora.weight;
  LoraScale::Dict weights;
  for (const auto& component : pipe.models())
    weights.emplace_back(component.name, weights.empty() ? lora.weight : LoraScale(*lora.text_encoders));
  return weights;
}

void ModelArguments::declare(CLI::App& command) {
  command
      .add_option("MODEL", model,
                  "A diffusers folder, a single-file checkpoint (.safetensors, .ckpt), or a repository on the Hugging "
                  "Face Hub (owner/name)")
      ->required();
  command
      .add_option("--lora", loras,
                  std::string(kLoraForms) +
                      ". Its weight may follow after a colon: a number, or JSON by component and block. May be "
                      "repeated.")
      ->type_name("FILE[:WEIGHT]")
      ->take_all()
      ->allow_extra_args(false);
  command.add_flag("--allow-partial", allow_partial, kAllowPartial);
  declare_dtype(command, dtype, "in memory. Default: what suits the machine.");
  command.add_option("--device", device, "cpu, cuda, cuda:1, …")->capture_default_str();
  command.add_option("--variant", variant,
                     "Reads the files named <name>.VARIANT.safetensors, such as fp16. A component without "
                     "such a file is read without a variant.");
  command
      .add_option("--vae", vae,
                  "A VAE in place of the model's: a diffusers folder with config.json, or a file (.safetensors, .ckpt)")
      ->type_name("PATH");
  command
      .add_option("--text-encoder", text_encoders,
                  "A text encoder in place of the model's: clip_l, clip_g or t5xxl, and a folder with config.json or a "
                  "file (.safetensors). May be repeated.")
      ->type_name("NAME=PATH")
      ->take_all()
      ->allow_extra_args(false);
  hub.declare(command, "MODEL");
  threads.declare(command);
}

void ModelArguments::declare_embeddings(CLI::App& command) {
  command
      .add_option("--embedding", embeddings,
                  "A textual inversion: a file, a folder with one, or owner/name on the Hub. The word for prompts may "
                  "follow after a colon. Default: the word in a file of diffusers, or else the file's name. May be "
                  "repeated.")
      ->type_name("FILE[:TOKEN]")
      ->take_all()
      ->allow_extra_args(false);
}

void ModelArguments::declare_prediction_type(CLI::App& command) {
  command
      .add_option("--prediction-type", prediction_type,
                  "What MODEL predicts: epsilon, v_prediction or sample. Default: what its files say.")
      ->check(CLI::IsMember({"epsilon", "v_prediction", "sample"}));
}

std::unique_ptr<DiffusionPipeline> open_pipeline(const std::string& model, const PipelineOptions& options) {
  auto pipe = DiffusionPipeline::from_pretrained(model, options);
  tell_verbose(fmt::format("{} opened: {}, {} on {}", model, pipe->class_name(), to_string(pipe->dtype()),
                           pipe->device().str()));
  for (const auto& text : pipe->notes()) note(text);
  return pipe;
}

PipelineOptions ModelArguments::pipeline_options() const {
  check_is_no_url(model);
  PipelineOptions options{
      .hub = hub.options_for(model), .variant = variant, .vae = vae, .prediction_type = prediction_type};
  options.dtype = dtype_of(dtype);
  options.device = parse_device(device);
  for (const auto& text : text_encoders) {
    const auto sign = text.find('=');
    check(sign != text.npos && sign > 0 && sign + 1 < text.size(), ErrorKind::usage,
          "--text-encoder {}: the form is NAME=PATH, such as t5xxl=t5xxl.safetensors", text);
    const auto name = text.substr(0, sign);
    check_is_no_url(text.substr(sign + 1));
    check(options.text_encoders.emplace(name, text.substr(sign + 1)).second, ErrorKind::usage,
          "--text-encoder {}: {} is given twice", text, name);
  }
  return options;
}

std::vector<LoraArgument> ModelArguments::lora_arguments() const {
  std::vector<LoraArgument> all;
  for (const auto& text : loras) {
    all.push_back(parse_lora_argument(text));
    all.back().cache_dir = hub.cache_dir;
  }
  return all;
}

std::vector<EmbeddingArgument> ModelArguments::embedding_arguments() const {
  std::vector<EmbeddingArgument> all;
  for (const auto& text : embeddings) {
    all.push_back(parse_embedding_argument(text));
    all.back().cache_dir = hub.cache_dir;
  }
  return all;
}

std::vector<LoadReport> load_loras(DiffusionPipeline& pipe, const std::vector<LoraArgument>& loras, PartialLora partial,
                                   bool for_a_call) {
  std::vector<LoadReport> reports;
  std::vector<std::string> names;
  for (const auto& lora : loras) {
    check(for_a_call || !lora.is_of_a_call(), ErrorKind::usage,
          "{}: \"schedule\", \"mask\" and \"images\" need `lora generate` without --fuse. Here, give a weight alone.",
          lora.file);
    LoraPlace place(lora.file);
    auto name = place.adapter_name();
    for (int i = 2; std::find(names.begin(), names.end(), name) != names.end(); ++i)
      name = fmt::format("{}-{}", place.adapter_name(), i);
    reports.push_back(pipe.load_lora_weights(place.source(), {.adapter_name = name,
                                                              .hub = place.hub_options(lora.cache_dir),
                                                              .weight_name = place.weight_name(),
                                                              .partial = partial}));
    tell_loaded(reports.back());
    note(reports.back());
    names.push_back(name);
  }
  activate_loras(pipe, loras, reports);
  return reports;
}

void activate_loras(DiffusionPipeline& pipe, const std::vector<LoraArgument>& loras,
                    const std::vector<LoadReport>& reports) {
  std::vector<std::string> names;
  std::vector<LoraScale> weights;
  for (size_t i = 0; i < loras.size(); ++i) {
    names.push_back(reports[i].adapter_name);
    weights.push_back(weight_on(pipe, loras[i]));
  }
  if (names.empty()) return;
  for (const auto& remark : pipe.set_adapters(names, weights)) note(remark);
}

void set_call_adapters(const DiffusionPipeline& pipe, const std::vector<LoraArgument>& loras,
                       const std::vector<LoadReport>& reports, int images, CallOptions& options, bool only_these) {
  if (!only_these && std::none_of(loras.begin(), loras.end(), [](auto& lora) { return lora.is_of_a_call(); })) return;
  bool per_image = std::any_of(loras.begin(), loras.end(), [](auto& lora) { return !lora.images.empty(); });
  options.adapters_per_image.resize(per_image ? size_t(images) : 0);
  if (!per_image) options.adapters.emplace();
  for (size_t i = 0; i < loras.size(); ++i) {
    const auto& lora = loras[i];
    CallAdapter adapter{.name = reports[i].adapter_name, .weight = weight_on(pipe, lora)};
    if (!lora.schedule.empty()) adapter.schedule = LoraSchedule::by_fraction(lora.schedule);
    if (!lora.mask.empty()) adapter.mask = to_grey(Image::load(lora.mask));
    if (!per_image) options.adapters->push_back(adapter);
    for (int image = 1; per_image && image <= images; ++image)
      if (lora.acts_on(image)) options.adapters_per_image[size_t(image - 1)].push_back(adapter);
    for (int image : lora.images)
      check(image <= images, ErrorKind::usage, "{}: \"images\" has {}, but --count is {}", lora.file, image, images);
  }
}

}  // namespace lora::cli
