#include <fmt/format.h>

#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "check.h"
#include "lora/files.h"
#include "lora/pipeline.h"
#include "lora_argument.h"
#include "progress.h"
#include "threads.h"
#include "verbs.h"

namespace lora::cli {

namespace {

struct Arguments {
  Threads threads;
  std::string file, other, model;
  bool json = false;
};

void compare(const Arguments& a) {
  check(a.model.empty(), ErrorKind::usage, "--model works for one file only, not for two that are compared");
  LoraPlace first(a.file), second(a.other);
  auto comparison = compare_loras(
      first.source(), second.source(),
      {.read_a = first.read_options(), .read_b = second.read_options(), .progress = progress_after_a_second()});
  fmt::print("{}", a.json ? comparison.json() + "\n" : comparison.text());
}

void run(const Arguments& a) {
  if (!a.other.empty()) return compare(a);
  LoraPlace place(a.file);
  auto inspection = inspect_lora(place.source(), {.read = place.read_options(), .progress = progress_after_a_second()});
  std::optional<LoadReport> match;
  if (!a.model.empty())
    match = DiffusionPipeline::from_pretrained(a.model, {.hub = {.progress = download_progress()}})
                ->match_lora(place.source(), {.weight_name = place.weight_name()});
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
      "inspect", "Says what a LoRA is, what it is for and whether it is sound. With OTHER: how alike two LoRAs are.");
  command->add_option("FILE", a->file, kLoraForms)->required();
  command->add_option("OTHER", a->other, "A second LoRA to compare with, layer by layer");
  command->add_option("--model", a->model,
                      "A model. Also prints which layers of it the LoRA matches, and which keys match none.");
  command->add_flag("--json", a->json, "Prints JSON");
  a->threads.declare(*command);
  command->callback([a] { run(*a); });
}

}  // namespace lora::cli
