#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "check.h"
#include "hub_arguments.h"
#include "lora/text.h"
#include "lora_argument.h"
#include "output.h"
#include "verbose.h"
#include "verbs.h"

namespace lora::cli {

namespace {

struct Arguments {
  std::string repo;
  HubArguments hub;
  std::vector<std::string> files;
  FilePatterns patterns;
  bool force = false, json = false;
};

void run(const Arguments& a) {
  check_is_no_url(a.repo);
  check(a.files.empty() || (a.patterns.allow_patterns.empty() && a.patterns.ignore_patterns.empty()), ErrorKind::usage,
        "--include and --exclude choose among all files. Give either them or FILE, not both.");
  auto options = a.hub.options();
  options.revision = a.hub.revision;
  options.force_download = a.force;
  std::vector<std::filesystem::path> paths;
  if (a.files.empty()) {
    paths.push_back(snapshot_download(a.repo, a.patterns, options));
  } else if (a.files.size() == 1) {
    paths.push_back(hf_hub_download(a.repo, a.files.front(), options));
  } else {
    auto folder = hf_hub_download_files(a.repo, a.files, options);
    for (const auto& file : a.files) paths.push_back(folder / file);
  }
  tell_verbose(a.repo + " is in the cache");
  if (!a.json) {
    for (const auto& path : paths) print_path(path);
    return;
  }
  auto texts = nlohmann::ordered_json::array();
  for (const auto& path : paths) texts.push_back(valid_utf8(path.string()));
  print_json({{"repo_id", a.repo}, {"paths", texts}});
}

}  // namespace

void declare_download(CLI::App& app) {
  auto a = std::make_shared<Arguments>();
  auto* command =
      app.add_subcommand("download", "Downloads a Hub repository, or files of it, into the cache and prints the paths");
  command->add_option("REPO", a->repo, "The repository (owner/name)")->required();
  command->add_option("FILE", a->files, "Files of the repository, such as unet/config.json. Default: all.")
      ->type_name("NAME");
  a->hub.declare(*command, "REPO");
  command
      ->add_option("--include", a->patterns.allow_patterns,
                   "Downloads only files that match, such as \"*.json\". May be repeated.")
      ->type_name("PATTERN")
      ->take_all()
      ->allow_extra_args(false);
  command->add_option("--exclude", a->patterns.ignore_patterns, "Leaves out files that match. May be repeated.")
      ->type_name("PATTERN")
      ->take_all()
      ->allow_extra_args(false);
  command->add_flag("--force", a->force, "Downloads again what the cache already has");
  command->add_flag("--json", a->json, "Prints JSON");
  command->footer("A private or gated repository needs a token. Set HF_TOKEN, or log in with `hf auth login`.");
  command->callback([a] { run(*a); });
}

}  // namespace lora::cli
