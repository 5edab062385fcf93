// The command `lora`. Results go to stdout, progress and errors to stderr. The exit code is 0 for success, 1 for a
// failure, and 2 for a wrong command line.
#include <fmt/format.h>

#include "lora/error.h"
#include "lora/version.h"
#include "threads.h"
#include "verbs.h"

int main(int argc, char** argv) {
  lora::cli::use_available_threads();
  CLI::App app{"lora.cpp: LoRA adapters for diffusion models", "lora"};
  app.require_subcommand(1);
  app.set_version_flag("--version", lora::version(), "Print the version and exit");
  lora::cli::declare_generate(app);
  lora::cli::declare_inspect(app);
  lora::cli::declare_convert(app);
  lora::cli::declare_fuse(app);
  lora::cli::declare_forward(app);
  lora::cli::declare_download(app);
  lora::cli::declare_cache(app);
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
