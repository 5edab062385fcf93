#include <fmt/format.h>

#include "cli/common.h"
#include "core/check.h"

namespace lora {

namespace {

struct Arguments {
  ModelArguments model;
  std::string output;
  std::vector<std::string> components;
  bool safe = false;
};

void run(const Arguments& a) {
  check(!a.model.loras.empty(), ErrorKind::usage, "give at least one --lora FILE[:WEIGHT] to fuse");
  auto options = a.model.pipeline_options();
  // What is written has the dtype of what was read, unless another was asked for.
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
  auto* command = app.add_subcommand("fuse", "Writes a model with LoRAs baked in");
  a->model.declare(*command);
  command->add_option("-o,--output", a->output, "The diffusers folder to write")->required();
  command
      ->add_option("--components", a->components,
                   "Fuses into these alone: unet, transformer, text_encoder, text_encoder_2, …")
      ->delimiter(',');
  command->add_flag("--safe", a->safe, "Checks first that no weight becomes NaN or infinite");
  command->callback([a] { run(*a); });
}

}  // namespace lora
