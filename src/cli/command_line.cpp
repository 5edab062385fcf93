#include "command_line.h"

#include "help.h"
#include "lora/version.h"
#include "verbose.h"
#include "verbs.h"

namespace lora::cli {

namespace {

using Verbs = std::vector<CLI::App*>;

Verbs verbs_below(CLI::App& app) {
  return app.get_subcommands([](CLI::App*) { return true; });
}

void declare_verbose_of_all(CLI::App& app) {
  for (auto* verb : verbs_below(app)) declare_verbose_of_all(*verb);
  if (verbs_below(app).empty()) declare_verbose(app);
}

// A value that is empty is often a variable that is not set. Only prompts may be empty.
void refuse_empty_values(CLI::App& app) {
  for (auto* option : app.get_options()) {
    if (option->get_name().find("prompt") != std::string::npos) continue;
    option->check([](const std::string& value) { return value.empty() ? "the value is empty" : ""; });
  }
  for (auto* verb : verbs_below(app)) refuse_empty_values(*verb);
}

}  // namespace

std::shared_ptr<const ConfigFile> declare_command_line(CLI::App& app) {
  app.require_subcommand(1);
  app.set_version_flag("--version", lora::version(), "Print the version and exit");
  declare_generate(app);
  declare_grid(app);
  declare_info(app);
  declare_list(app);
  declare_inspect(app);
  declare_convert(app);
  declare_fuse(app);
  declare_forward(app);
  declare_download(app);
  declare_cache(app);
  declare_completions(app);
  declare_man(app);
  auto config = ConfigFile::declare(app);
  declare_verbose_of_all(app);
  arrange_help(app);
  refuse_empty_values(app);
  return config;
}

}  // namespace lora::cli
