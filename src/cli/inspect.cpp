#include "files/inspect.h"

#include <fmt/format.h>

#include <iostream>
#include <nlohmann/json.hpp>

#include "cli/common.h"
#include "core/check.h"
#include "files/compare.h"

namespace lora {

namespace {

struct Arguments {
  std::string file, other, model;
  bool json = false;
};

void compare(const Arguments& a) {
  check(a.model.empty(), ErrorKind::usage, "--model is for one file; two are compared with each other");
  auto comparison = compare_loras(a.file, a.other, progress_after_a_second());
  fmt::print("{}", a.json ? comparison.json() + "\n" : comparison.text());
}

void run(const Arguments& a) {
  if (!a.other.empty()) return compare(a);
  auto inspection = inspect_lora(a.file, progress_after_a_second());
  std::optional<LoadReport> match;
  if (!a.model.empty())
    match = DiffusionPipeline::from_pretrained(a.model, {.hub = {.progress = download_progress()}})->match_lora(a.file);
  if (a.json) {
    auto all = nlohmann::json::parse(inspection.json());
    if (match) all["match"] = nlohmann::json::parse(match->json());
    std::cout << all.dump(2) << "\n";
    return;
  }
  fmt::print("{}", inspection.text());
  if (!match) return;
  fmt::print("on {}:\n", a.model);
  for (const auto& [name, layers] : match->components) fmt::print("  {}: {} layers match\n", name, layers.size());
  fmt::print("  not matched: {} keys\n", match->unmatched.size());
  for (const auto& [key, reason] : match->unmatched) fmt::print("    {}: {}\n", key, reason);
}

}  // namespace

void declare_inspect(CLI::App& app) {
  auto a = std::make_shared<Arguments>();
  auto* command = app.add_subcommand(
      "inspect", "Says what a LoRA file is, what it is for and whether it is sound; or how alike two are");
  command->add_option("FILE", a->file, "A LoRA file, a folder that holds one, or a repository on the Hub (owner/name)")
      ->required();
  command->add_option("OTHER", a->other, "A second one: says layer by layer how alike the two are");
  command->add_option("--model", a->model, "Says too what would match in this model, and what not");
  command->add_flag("--json", a->json, "Reports as JSON");
  command->callback([a] { run(*a); });
}

}  // namespace lora
