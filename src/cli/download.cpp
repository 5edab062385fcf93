#include <fmt/format.h>

#include <memory>

#include "check.h"
#include "lora_argument.h"
#include "output.h"
#include "progress.h"
#include "verbs.h"

namespace lora::cli {

namespace {

struct Arguments {
  std::string repo, revision, cache_dir;
  std::vector<std::string> files;
  FilePatterns patterns;
  bool force = false;
};

void run(const Arguments& a) {
  check_is_no_url(a.repo);
  check(a.files.empty() || (a.patterns.allow_patterns.empty() && a.patterns.ignore_patterns.empty()), ErrorKind::usage,
        "--include and --exclude choose among all files. Give either them or FILE, not both.");
  HubOptions options{
      .cache_dir = a.cache_dir, .force_download = a.force, .revision = a.revision, .progress = download_progress()};
  if (a.files.empty()) {
    print_path(snapshot_download(a.repo, a.patterns, options));
  } else if (a.files.size() == 1) {
    print_path(hf_hub_download(a.repo, a.files.front(), options));
  } else {
    auto folder = hf_hub_download_files(a.repo, a.files, options);
    for (const auto& file : a.files) print_path(folder / file);
  }
}

}  // namespace

void declare_download(CLI::App& app) {
  auto a = std::make_shared<Arguments>();
  auto* command =
      app.add_subcommand("download", "Downloads a Hub repository, or files of it, into the cache and prints the paths");
  command->add_option("REPO", a->repo, "The repository (owner/name)")->required();
  command->add_option("FILE", a->files, "Files of the repository, such as unet/config.json. Default: all.");
  command->add_option("--revision", a->revision, "A branch, a tag or a commit. Default: main.");
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
  command->add_option("--cache-dir", a->cache_dir,
                      "The cache folder. Default: HF_HUB_CACHE, else ~/.cache/huggingface/hub");
  command->add_flag("--force", a->force, "Downloads again what the cache already has");
  command->footer("A private or gated repository needs a token. Set HF_TOKEN, or log in with `hf auth login`.");
  command->callback([a] { run(*a); });
}

}  // namespace lora::cli
