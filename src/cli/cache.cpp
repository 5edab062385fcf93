#include <fmt/format.h>

#include <iostream>
#include <nlohmann/json.hpp>

#include "cli/common.h"
#include "core/check.h"
#include "core/text.h"

namespace lora {

namespace {

struct Arguments {
  std::string cache_dir;
  std::vector<std::string> repos, revisions;
  bool json = false;
};

std::string size_text(uint64_t bytes) {
  constexpr std::pair<double, const char*> kUnits[] = {{1e9, "GB"}, {1e6, "MB"}, {1e3, "kB"}};
  for (auto [unit, name] : kUnits)
    if (double(bytes) >= unit) return fmt::format("{:.1f} {}", double(bytes) / unit, name);
  return fmt::format("{} B", bytes);
}

std::string label(const CachedRepo& repo) {
  return repo.repo_type == "model" ? repo.repo_id : fmt::format("{} ({})", repo.repo_id, repo.repo_type);
}

void list(const Arguments& a) {
  auto cache = scan_cache_dir(a.cache_dir);
  if (a.json) {
    std::cout << cache.json() << "\n";
    return;
  }
  for (const auto& repo : cache.repos) {
    fmt::print("{}  {}, {} files\n", label(repo), size_text(repo.size_on_disk), repo.nb_files);
    for (const auto& revision : repo.revisions)
      fmt::print("  {}  {:>9}  {}\n", revision.commit_hash, size_text(revision.size_on_disk),
                 join(revision.refs, ", "));
    if (repo.incomplete_size)
      fmt::print("  not whole, {} of downloads that broke off\n", size_text(repo.incomplete_size));
  }
  fmt::print("{} repositories, {} in {}\n", cache.repos.size(), size_text(cache.size_on_disk),
             cache.cache_dir.string());
  for (const auto& warning : cache.warnings) fmt::print(stderr, "{}\n", warning);
}

// Those that were named. Throws Error{not_found}, with the nearest name.
std::vector<const CachedRepo*> chosen(const CacheInfo& cache, const std::vector<std::string>& names) {
  std::vector<const CachedRepo*> repos;
  std::vector<std::string> known;
  for (const auto& repo : cache.repos) known.push_back(repo.repo_id);
  for (const auto& name : names) {
    size_t before = repos.size();
    for (const auto& repo : cache.repos)
      if (repo.repo_id == name) repos.push_back(&repo);
    auto near = nearest(name, known);
    check(repos.size() > before, ErrorKind::not_found, "{}: the cache ({}) has no such repository{}", name,
          cache.cache_dir.string(), near.empty() ? "" : fmt::format("; did you mean \"{}\"?", near));
  }
  return repos;
}

void verify(const Arguments& a) {
  auto cache = scan_cache_dir(a.cache_dir);
  auto repos = chosen(cache, a.repos);
  if (a.repos.empty())
    for (const auto& repo : cache.repos) repos.push_back(&repo);
  CacheVerification all;
  auto add = [](std::vector<std::string>& to, const std::vector<std::string>& from) {
    to.insert(to.end(), from.begin(), from.end());
  };
  for (const auto* repo : repos) {
    auto result = verify_cache(*repo, download_progress());
    all.files_checked += result.files_checked;
    add(all.problems, result.problems);
    add(all.unknown, result.unknown);
  }
  for (const auto& warning : cache.warnings)
    if (a.repos.empty() ||
        std::any_of(repos.begin(), repos.end(), [&](auto* repo) { return warning.starts_with(repo->path.string()); }))
      all.problems.push_back(warning);
  if (a.json) {
    std::cout << nlohmann::ordered_json{{"files_checked", all.files_checked},
                                        {"problems", all.problems},
                                        {"unknown", all.unknown}}
                     .dump(2)
              << "\n";
  } else {
    for (const auto& problem : all.problems) fmt::print("{}\n", problem);
    for (const auto& file : all.unknown) fmt::print("{}: nothing says what digest it should have\n", file);
    fmt::print("{} files checked, {} problems\n", all.files_checked, all.problems.size());
  }
  check(all.problems.empty(), ErrorKind::bad_file,
        "{} problems in the cache; `lora download --force REPO FILE` brings a file anew", all.problems.size());
}

void remove(const Arguments& a) {
  auto cache = scan_cache_dir(a.cache_dir);
  auto repos = chosen(cache, a.repos);
  check(a.revisions.empty() || repos.size() == 1, ErrorKind::usage, "--revision is of one repository; {} were named",
        repos.size());
  uint64_t freed = 0;
  for (const auto* repo : repos) {
    std::vector<std::string> commits;
    for (const auto& name : a.revisions) {
      auto at = std::find_if(repo->revisions.begin(), repo->revisions.end(), [&](auto& revision) {
        return std::find(revision.refs.begin(), revision.refs.end(), name) != revision.refs.end();
      });
      commits.push_back(at == repo->revisions.end() ? name : at->commit_hash);
    }
    freed += remove_from_cache(cache, *repo, commits);
  }
  if (a.json)
    std::cout << nlohmann::ordered_json{{"freed", freed}}.dump(2) << "\n";
  else
    fmt::print("{} freed\n", size_text(freed));
}

}  // namespace

void declare_cache(CLI::App& app) {
  auto a = std::make_shared<Arguments>();
  auto* command =
      app.add_subcommand("cache", "What was downloaded from the Hugging Face Hub: lists, verifies, removes");
  auto add = [&](const char* name, const char* text, void (*run)(const Arguments&)) {
    auto* sub = command->add_subcommand(name, text);
    sub->add_option("--cache-dir", a->cache_dir, "In place of HF_HUB_CACHE, or ~/.cache/huggingface/hub");
    sub->add_flag("--json", a->json, "Reports as JSON");
    sub->callback([a, run] { run(*a); });
    return sub;
  };
  command->require_subcommand(1);
  add("list", "The repositories, their revisions and sizes", list);
  add("verify", "Compares every file with the digest that the Hub gave for it", verify)
      ->add_option("REPO", a->repos, "Only these");
  auto* removal = add("remove", "Removes repositories, or revisions of one", remove);
  removal->add_option("REPO", a->repos, "owner/name")->required();
  removal->add_option("--revision", a->revisions, "Only these: branches, tags or commits")->take_all();
}

}  // namespace lora
