#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "check.h"
#include "lora/files.h"
#include "lora/pipeline.h"
#include "lora/text.h"
#include "model_arguments.h"
#include "option_names.h"
#include "output.h"
#include "progress.h"
#include "threads.h"
#include "verbose.h"
#include "verbs.h"

namespace lora::cli {

namespace {

struct Arguments {
  Threads threads;
  HubArguments hub;
  std::string file, other, model, base;
  bool json = false, allow_partial = false;

  ReadLoraOptions read(const LoraPlace& place) const {
    auto options = place.read_options(hub.cache_dir);
    if (allow_partial) options.partial = PartialLora::allow;
    if (!base.empty()) options.base_model = parse_base_model(base);
    return options;
  }
};

// What the library noted, in the words of the command.
void translate(std::vector<std::string>& notes) {
  for (auto& text : notes) text = in_option_names(text);
}

struct Match {
  LoadReport report;
  std::optional<FuseReport> fused;
  std::string not_fusable;                   // why it cannot be fused
  std::optional<Error> not_opened, refused;  // why the model cannot be opened, or cannot load the file
};

void measure(Match& match, const DiffusionPipeline& pipe) {
  try {
    match.fused = pipe.measure_fuse();
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::unsupported) throw;
    match.not_fusable = in_option_names(error.what());
  }
}

Match match(const Arguments& a, const LoraPlace& place) {
  Match result;
  auto attempt = [](std::optional<Error>& failure, auto&& work) {
    try {
      work();
    } catch (const Error& error) {
      failure = error;
    }
    return !failure;
  };
  PipelineOptions options{.hub = a.hub.options_for(a.model)};
  std::unique_ptr<DiffusionPipeline> pipe;
  auto open = [&] {
    options.dtype = stored_dtype(a.model, options);  // that of the weights that `lora fuse` would write
    pipe = open_pipeline(a.model, options);
  };
  auto load = [&] {
    result.report = pipe->load_lora_weights(place.source(), {.hub = place.hub_options(a.hub.cache_dir),
                                                             .weight_name = place.weight_name(),
                                                             .partial = a.read(place).partial});
  };
  if (attempt(result.not_opened, open) && attempt(result.refused, load)) measure(result, *pipe);
  translate(result.report.notes);
  return result;
}

// What the file is stands there also where the model cannot be opened, or the LoRA does not fit it.
void print_inspection_json(const Inspection& inspection, const std::optional<Match>& match) {
  using json = nlohmann::ordered_json;
  auto all = json::parse(inspection.json());
  if (match) {
    const auto& failure = match->not_opened ? match->not_opened : match->refused;
    all["match"] = failure ? json{{"error", in_option_names(failure->what())}} : json::parse(match->report.json());
    if (match->fused) all["fuse"] = json::parse(match->fused->json());
  }
  print_json(all);
}

void print_inspection(const Arguments& a, const Inspection& inspection, const std::optional<Match>& match) {
  print(inspection.text());
  if (!match || match->not_opened || match->refused) return;
  print(fmt::format("on {}:", printable(a.model)));
  for (const auto& [name, layers] : match->report.components)
    print(fmt::format("  {}: {} {}", name, counted(layers.size(), "layer"), layers.size() == 1 ? "matches" : "match"));
  print(fmt::format("  not matched: {}", counted(match->report.unmatched.size(), "key")));
  for (const auto& [key, reason] : match->report.unmatched) print("    " + printable(key) + ": " + printable(reason));
  for (const auto& note : match->report.notes) print("  note: " + printable(note));
  print("  fused at weight 1: " + (match->fused ? match->fused->text() : "not possible: " + match->not_fusable));
}

void compare(const Arguments& a) {
  check(a.model.empty(), ErrorKind::usage, "--model works for one file only, not for two that are compared");
  LoraPlace first(a.file), second(a.other);
  auto comparison =
      compare_loras(first.source(), second.source(),
                    {.read_a = a.read(first), .read_b = a.read(second), .progress = progress_after_a_second()});
  translate(comparison.notes);
  if (a.json)
    print_json(nlohmann::ordered_json::parse(comparison.json()));
  else
    print(comparison.text());
}

void run(const Arguments& a) {
  check(a.hub.revision.empty() || !a.model.empty(), ErrorKind::usage,
        "--revision is that of --model. For FILE, give owner/name@{}.", a.hub.revision);
  if (!a.other.empty()) return compare(a);
  check_is_no_url(a.model);
  LoraPlace place(a.file);
  auto inspection = inspect_lora(place.source(), {.read = a.read(place), .progress = progress_after_a_second()});
  tell_verbose(a.file + " read");
  translate(inspection.notes);
  std::optional<Match> matched;
  if (!a.model.empty()) matched = match(a, place);
  if (matched && matched->refused)
    inspection.findings.push_back(
        {true, fmt::format("on {}: {}", a.model, in_option_names(matched->refused->what())), {}});
  a.json ? print_inspection_json(inspection, matched) : print_inspection(a, inspection, matched);
  if (!matched) return;
  if (matched->not_opened) throw *matched->not_opened;
  if (matched->refused) throw Error(ErrorKind::bad_file, fmt::format("{} cannot be loaded into {}", a.file, a.model));
}

}  // namespace

void declare_inspect(CLI::App& app) {
  auto a = std::make_shared<Arguments>();
  auto* command = app.add_subcommand(
      "inspect", "Says what a LoRA is, what it is for and whether it is sound. With OTHER: how alike two LoRAs are.");
  command->add_option("FILE", a->file, kLoraForms)->required()->type_name("FILE");
  command->add_option("OTHER", a->other, "A second LoRA to compare with, layer by layer");
  command->add_option("--model", a->model,
                      "A model. Also prints which layers of it the LoRA matches, which keys match none, and what the "
                      "rounding of the model's weights would lose of the LoRA if it were fused.");
  command->add_option("--base", a->base, kBaseHelp);
  command->add_flag("--allow-partial", a->allow_partial, kAllowPartial);
  a->hub.declare(*command, "--model");
  command->add_flag("--json", a->json, "Prints JSON");
  a->threads.declare(*command);
  command->callback([a] { run(*a); });
}

}  // namespace lora::cli
