#include <fmt/format.h>

#include "cli/common.h"
#include "core/check.h"
#include "hub/snapshot.h"

namespace lora {

namespace {

struct Arguments {
  std::string repo, revision, cache_dir;
  std::vector<std::string> files;
  FilePatterns patterns;
  bool force = false;
};

void run(const Arguments& a) {
  check(a.files.empty() || (a.patterns.allow_patterns.empty() && a.patterns.ignore_patterns.empty()), ErrorKind::usage,
        "--include and --exclude choose among all files; leave them out, or the names");
  HubOptions options{
      .cache_dir = a.cache_dir, .force_download = a.force, .revision = a.revision, .progress = download_progress()};
  if (a.files.empty()) {
    fmt::print("{}\n", snapshot_download(a.repo, a.patterns, options).string());
  } else if (a.files.size() == 1) {
    fmt::print("{}\n", hf_hub_download(a.repo, a.files.front(), options).string());
  } else {
    auto folder = Snapshot(a.repo, options).fetch(a.files);
    for (const auto& file : a.files) fmt::print("{}\n", (folder / file).string());
  }
}

}  // namespace

void declare_download(CLI::App& app) {
  auto a = std::make_shared<Arguments>();
  auto* command = app.add_subcommand(
      "download", "Brings a repository of the Hugging Face Hub, or files of it, into the cache; prints where they are");
  command->add_option("REPO", a->repo, "owner/name")->required();
  command->add_option("FILE", a->files, "Files of it, such as unet/config.json; without one, all");
  command->add_option("--revision", a->revision, "A branch, a tag or a commit; main without it");
  command->add_option("--include", a->patterns.allow_patterns, "Only files that match, such as \"*.json\"")
      ->type_name("PATTERN")
      ->take_all();
  command->add_option("--exclude", a->patterns.ignore_patterns, "No files that match")
      ->type_name("PATTERN")
      ->take_all();
  command->add_option("--cache-dir", a->cache_dir, "In place of HF_HUB_CACHE, or ~/.cache/huggingface/hub");
  command->add_flag("--force", a->force, "Downloads again what the cache has");
  command->footer("A private or gated repository needs a token: HF_TOKEN, or the login of `hf auth login`.");
  command->callback([a] { run(*a); });
}

}  // namespace lora
