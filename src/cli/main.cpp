// The command: a table of verbs. Results go to stdout, progress and errors to stderr; exit code 0, 1 for a failure, 2
// for usage.
#include <fmt/format.h>

#include "cli/common.h"

int main(int argc, char** argv) {
  CLI::App app{"lora.cpp: LoRA adapters for diffusion models", "lora"};
  app.require_subcommand(1);
  app.set_version_flag("--version", LORA_VERSION);
  lora::declare_generate(app);
  lora::declare_inspect(app);
  lora::declare_convert(app);
  lora::declare_fuse(app);
  lora::declare_forward(app);
  lora::declare_download(app);
  lora::declare_cache(app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  } catch (const lora::Error& error) {
    fmt::print(stderr, "lora: {}\n", error.what());
    return error.kind() == lora::ErrorKind::usage ? 2 : 1;
  } catch (const std::exception& error) {
    fmt::print(stderr, "lora: {}\n", error.what());
    return 1;
  }
  return 0;
}
