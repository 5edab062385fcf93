#include <fmt/format.h>

#include <filesystem>
#include <memory>

#include "check.h"
#include "model_arguments.h"
#include "verbs.h"

namespace lora::cli {

namespace fs = std::filesystem;

namespace {

struct Arguments {
  ModelArguments model;
  std::string output;
  std::vector<std::string> components;
  bool safe = false;
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

void run(const Arguments& a) {
  check(!a.model.loras.empty(), ErrorKind::usage, "nothing to fuse. Give at least one --lora FILE[:WEIGHT].");
  check_apart(a.model.model, a.output);
  DiffusionPipeline::check_save_folder(a.output);
  auto options = a.model.pipeline_options();
  // Without --dtype, the written model has the dtype of the one that was read.
  if (!options.dtype) options.dtype = stored_dtype(a.model.model, options);
  auto pipe = open_pipeline(a.model.model, options);
  for (const auto& report : load_loras(*pipe, a.model.lora_arguments())) fmt::print(stderr, "{}", report.text());
  pipe->fuse_lora({.components = a.components, .safe_fusing = a.safe});
  pipe->save_pretrained(a.output);
  fmt::print("{}\n", a.output);
}

}  // namespace

void declare_fuse(CLI::App& app) {
  auto a = std::make_shared<Arguments>();
  auto* command = app.add_subcommand("fuse", "Writes a model with LoRAs fused into its weights");
  a->model.declare(*command);
  a->model.declare_prediction_type(*command);
  command->get_option("--dtype")->description("float32, bfloat16 or float16 to write. Default: the dtype of MODEL.");
  command
      ->add_option("-o,--output", a->output,
                   "The diffusers folder to write. It may be MODEL itself: the folder is written beside it and then "
                   "replaces it. Other files in it stay.")
      ->required();
  command
      ->add_option("--components", a->components,
                   "Fuses only into these: unet, transformer, text_encoder, text_encoder_2, …")
      ->delimiter(',');
  command->add_flag("--safe", a->safe, "Checks first that no weight becomes NaN or infinite, and stops if one does");
  command->callback([a] { run(*a); });
}

}  // namespace lora::cli
