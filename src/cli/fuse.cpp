#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "check.h"
#include "dtype_argument.h"
#include "fusing.h"
#include "lora/text.h"
#include "model_arguments.h"
#include "output.h"
#include "verbose.h"
#include "verbs.h"

namespace lora::cli {

namespace fs = std::filesystem;

namespace {

struct Arguments {
  ModelArguments model;
  FuseArguments fuse;
  std::string output;
  std::vector<std::string> components;
  bool safe = false, json = false;
};

// The output may be the model's own folder. One inside the other would become a part of itself.
void check_apart(const std::string& model, const std::string& output) {
  std::error_code error;
  if (!fs::exists(model, error)) return;  // a repository
  auto from = fs::weakly_canonical(fs::absolute(model), error), to = fs::weakly_canonical(fs::absolute(output), error);
  auto inside = [](const fs::path& path, const fs::path& folder) {
    auto inner = path.lexically_relative(folder);
    return !inner.empty() && inner != "." && *inner.begin() != "..";
  };
  check(!inside(to, from), ErrorKind::usage, "--output {}: is inside the model {}. Write to another folder.", output,
        model);
  check(!inside(from, to), ErrorKind::usage, "--output {}: contains the model {}. Write to another folder.", output,
        model);
}

// Layers that are not fused are LoRA files in the folder.
void tell_unfused(const fs::path& output, const std::vector<LoraArgument>& loras,
                  const std::vector<LoadReport>& reports) {
  std::string options;
  for (size_t i = 0; i < loras.size(); ++i) {
    auto file = output / "unfused_loras" / (reports[i].adapter_name + ".safetensors");
    if (fs::exists(file)) options += fmt::format(" --lora '{}:{}'", file.string(), loras[i].text);
  }
  tell("The layers that are not fused are in the folder. To draw with them, add" + options);
}

// Why no weight changes.
std::string why_unchanged(const FuseReport& fused, const std::string& limit, const std::string& dtype) {
  if (fused.stays_active() > 0)
    return fmt::format("each layer would lose more than {} of its change in {}. {}", limit, dtype, remedy(fused));
  const bool changes =
      std::any_of(fused.layers.begin(), fused.layers.end(), [](auto& layer) { return layer.change > 0; });
  if (changes) return fmt::format("each layer loses its whole change to the rounding in {}. {}", dtype, remedy(fused));
  return "the change of each layer is 0. Either the factors are 0, or the LoRAs cancel each other.";
}

void print_fused(const std::string& output, const DiffusionPipeline& pipe, const std::vector<LoadReport>& reports,
                 const FuseReport& fused) {
  auto loaded = nlohmann::ordered_json::array();
  for (const auto& report : reports) loaded.push_back(nlohmann::ordered_json::parse(report.json()));
  print_json({{"folder", valid_utf8(output)},
              {"adapters", loaded},
              {"fuse", nlohmann::ordered_json::parse(fused.json())},
              {"pipeline", pipe.class_name()},
              {"dtype", to_string(pipe.dtype())}});
}

void run(const Arguments& a) {
  check(!a.model.loras.empty(), ErrorKind::usage, "nothing to fuse. Give at least one --lora FILE[:WEIGHT].");
  check_apart(a.model.model, a.output);
  DiffusionPipeline::check_save_folder(a.output);
  const auto max_loss = a.fuse.max_loss();
  auto options = a.model.pipeline_options();
  // Without --dtype, the written model has the dtype of the one that was read.
  if (!options.dtype) options.dtype = stored_dtype(a.model.model, options);
  auto pipe = open_pipeline(a.model.model, options);
  const auto loras = a.model.lora_arguments();
  const auto reports = load_loras(*pipe, loras, a.model.partial());
  const auto fused = fuse(*pipe, {.components = a.components, .safe_fusing = a.safe, .max_loss = max_loss});
  check(!fused.layers.empty(), ErrorKind::usage,
        "nothing to fuse: no LoRA has a weight other than 0 for a layer of {}. Nothing was written.",
        a.components.empty() ? "the model" : fmt::format("{}", fmt::join(a.components, ", ")));
  check(fused.fused() > fused.unchanged(), ErrorKind::unsupported, "nothing to fuse: {} Nothing was written.",
        why_unchanged(fused, a.fuse.keep_active_above, to_string(pipe->dtype())));
  tell_verbose(counted(fused.fused(), "layer") + " fused");
  pipe->save_pretrained(a.output);
  tell_verbose(a.output + " saved");
  a.json ? print_fused(a.output, *pipe, reports, fused) : print_path(a.output);
  if (fused.stays_active() > 0) tell_unfused(a.output, loras, reports);
}

}  // namespace

void declare_fuse(CLI::App& app) {
  auto a = std::make_shared<Arguments>();
  auto* command = app.add_subcommand("fuse", "Writes a model with LoRAs fused into its weights");
  a->model.declare(*command);
  a->model.declare_prediction_type(*command);
  a->fuse.declare(*command);
  command->get_option("--dtype")->description(dtype_help("to write. Default: the dtype of MODEL."));
  command
      ->add_option("-o,--output", a->output,
                   "The diffusers folder to write. It may be MODEL itself: the folder is written beside it and then "
                   "replaces it. Other files in it stay.")
      ->required()
      ->type_name("DIR");
  command
      ->add_option("--components", a->components,
                   "Fuses only into these: unet, transformer, text_encoder, text_encoder_2, …")
      ->delimiter(',')
      ->allow_extra_args(false);
  command->add_flag("--safe", a->safe, "Checks first that no weight becomes NaN or infinite, and stops if one does");
  command->add_flag("--json", a->json, "Prints JSON");
  command->callback([a] { run(*a); });
}

}  // namespace lora::cli
