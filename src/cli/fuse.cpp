#include <fmt/format.h>

#include <memory>

#include "check.h"
#include "model_arguments.h"
#include "verbs.h"

namespace lora::cli {

namespace {

struct Arguments {
  ModelArguments model;
  std::string output;
  std::vector<std::string> components;
  bool safe = false;
};

void run(const Arguments& a) {
  check(!a.model.loras.empty(), ErrorKind::usage, "nothing to fuse. Give at least one --lora FILE[:WEIGHT].");
  auto options = a.model.pipeline_options();
  // Without --dtype, the written model has the dtype of the one that was read.
  if (!options.dtype) options.dtype = stored_dtype(a.model.model, options);
  auto pipe = DiffusionPipeline::from_pretrained(a.model.model, options);
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
  command->get_option("--dtype")->description("float32, bfloat16 or float16 to write. Default: the dtype of MODEL.");
  command->add_option("-o,--output", a->output, "The diffusers folder to write")->required();
  command
      ->add_option("--components", a->components,
                   "Fuses only into these: unet, transformer, text_encoder, text_encoder_2, …")
      ->delimiter(',');
  command->add_flag("--safe", a->safe, "Checks first that no weight becomes NaN or infinite, and stops if one does");
  command->callback([a] { run(*a); });
}

}  // namespace lora::cli
