#include <fmt/ranges.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>

#include "check.h"
#include "hub_arguments.h"
#include "lora/text.h"
#include "output.h"
#include "progress.h"
#include "verbs.h"

namespace lora::cli {

namespace {

struct Arguments {
  HubArguments hub;
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
  auto cache = scan_cache_dir(a.hub.cache_dir);
  if (a.json) {
    print_json(nlohmann::ordered_json::parse(cache.json()));
    return;
  }
  for (const auto& repo : cache.repos) {
    print(fmt::format("{}  {}, {} files", label(repo), size_text(repo.size_on_disk), repo.nb_files));
    for (const auto& revision : repo.revisions)
      print(fmt::format("  {}  {:>9}  {}", revision.commit_hash, size_text(revision.size_on_disk),
                        fmt::join(revision.refs, ", ")));
    if (repo.incomplete_size) print(fmt::format("  unfinished downloads: {}", size_text(repo.incomplete_size)));
  }
  print(fmt::format("{} repositories, {} in {}", cache.repos.size(), size_text(cache.size_on_disk),
                    cache.cache_dir.string()));
  for (const auto& warning : cache.warnings) note(warning);
}

template <class T>
void append(std::vector<T>& to, const std::vector<T>& from) {
  to.insert(to.end(), from.begin(), from.end());
}

// The repositories that the command line names.
std::vector<const CachedRepo*> chosen(const CacheInfo& cache, const std::vector<std::string>& names) {
  std::vector<const CachedRepo*> repos;
  for (const auto& name : names) append(repos, cache.find(name));
  return repos;
}

void verify(const Arguments& a) {
  auto cache = scan_cache_dir(a.hub.cache_dir);
  auto repos = chosen(cache, a.repos);
  if (a.repos.empty())
    for (const auto& repo : cache.repos) repos.push_back(&repo);
  CacheVerification all;
  for (const auto* repo : repos) {
    auto result = verify_cache(*repo, download_progress());
    all.files_checked += result.files_checked;
    append(all.problems, result.problems);
    append(all.unknown, result.unknown);
  }
  for (const auto& warning : cache.warnings)
    if (a.repos.empty() ||
        std::any_of(repos.begin(), repos.end(), [&](auto* repo) { return warning.starts_with(repo->path.string()); }))
      all.problems.push_back(warning);
  if (a.json) {
    auto valid = [](std::vector<std::string> texts) {
      for (auto& text : texts) text = valid_utf8(text);
      return texts;
    };
    print_json(
        {{"files_checked", all.files_checked}, {"problems", valid(all.problems)}, {"unknown", valid(all.unknown)}});
  } else {
    for (const auto& problem : all.problems) print(printable(problem));
    for (const auto& file : all.unknown) print(printable(file) + ": no digest to compare with");
    print(fmt::format("{} files checked, {} problems", all.files_checked, all.problems.size()));
  }
  check(all.problems.empty(), ErrorKind::bad_file,
        "{} problems in the cache. `lora download --force REPO FILE` downloads a file again.", all.problems.size());
}

void remove(const Arguments& a) {
  auto cache = scan_cache_dir(a.hub.cache_dir);
  auto repos = chosen(cache, a.repos);
  check(a.revisions.empty() || repos.size() == 1, ErrorKind::usage,
        "--revision needs exactly one REPO, but there are {}", repos.size());
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
    print_json({{"freed", freed}});
  else
    print(size_text(freed) + " freed");
}

}  // namespace

void declare_cache(CLI::App& app) {
  auto a = std::make_shared<Arguments>();
  auto* command =
      app.add_subcommand("cache", "Lists, verifies or removes what was downloaded from the Hugging Face Hub");
  auto add = [&](const char* name, const char* text, void (*run)(const Arguments&)) {
    auto* sub = command->add_subcommand(name, text);
    a->hub.declare_cache_dir(*sub);
    sub->add_flag("--json", a->json, "Prints JSON");
    sub->callback([a, run] { run(*a); });
    return sub;
  };
  command->require_subcommand(1);
  add("list", "Lists the repositories, their revisions and sizes", list);
  add("verify", "Compares every file with the digest that the Hub states for it", verify)
      ->add_option("REPO", a->repos, "The repositories to verify (owner/name). Default: all.");
  auto* removal = add("remove", "Removes repositories, or revisions of one repository", remove);
  removal->add_option("REPO", a->repos, "The repositories to remove (owner/name)")->required();
  removal->add_option("--revision", a->revisions, "Removes only this branch, tag or commit. May be repeated.")
      ->take_all()
      ->allow_extra_args(false);
}

}  // namespace lora::cli
