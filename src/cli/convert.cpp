#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "check.h"
#include "dtype_argument.h"
#include "hub_arguments.h"
#include "lora/files.h"
#include "lora/text.h"
#include "lora_argument.h"
#include "option_names.h"
#include "output.h"
#include "output_path.h"
#include "progress.h"
#include "threads.h"
#include "verbose.h"
#include "verbs.h"

namespace lora::cli {

namespace {

struct Arguments {
  Threads threads;
  std::string file, out, to, dtype, base;
  HubArguments hub;
  bool approximate = false, allow_partial = false, json = false;
  std::optional<int> rank;  // CLI11 takes a number that is too long for 64 bits for the largest of them
};

void print_conversion(const Conversion& done, const std::vector<std::string>& notes) {
  nlohmann::ordered_json all{{"files", nlohmann::ordered_json::array()}, {"layers", done.layers},
                             {"approximated", done.approximated},        {"mean_error", done.mean_error},
                             {"largest_error", done.largest_error},      {"worst", valid_utf8(done.worst)},
                             {"notes", nlohmann::ordered_json::array()}};
  for (const auto& file : done.files) all["files"].push_back(valid_utf8(file.string()));
  for (const auto& text : notes) all["notes"].push_back(valid_utf8(in_option_names(text)));
  print_json(all);
}

void run(const Arguments& a) {
  check(!a.approximate || a.rank, ErrorKind::usage, "--approximate needs --rank N, the rank of the new factors");
  check(a.approximate || !a.rank, ErrorKind::usage,
        "--rank needs --approximate. Without it, factors keep their ranks.");
  LoraPlace place(a.file);
  if (a.to == "peft")
    check_can_write_folder(a.out);
  else
    check_can_write_file(a.out);
  ConvertOptions options{
      .to = a.to, .read = place.read_options(a.hub.cache_dir), .progress = progress_after_a_second()};
  if (a.allow_partial) options.read.partial = PartialLora::allow;
  options.dtype = dtype_of(a.dtype);
  if (a.approximate) options.approximate = a.rank;
  if (!a.base.empty()) options.read.base_model = parse_base_model(a.base);
  auto done = convert_lora(place.source(), a.out, options);
  tell_verbose(fmt::format("{} converted: {}", a.file, counted(done.layers, "layer")));
  const auto notes = std::exchange(done.notes, {});
  for (const auto& text : notes) note(printable(text));
  a.json ? print_conversion(done, notes) : print(done.text());
}

}  // namespace

void declare_convert(CLI::App& app) {
  auto a = std::make_shared<Arguments>();
  auto* command = app.add_subcommand("convert", "Writes a LoRA in another program's format, with the same effect");
  command->add_option("FILE", a->file, kLoraForms)->required()->type_name("FILE");
  command->add_option("-o,--output", a->out, "The file to write. For peft: the folder.")->required()->type_name("PATH");
  command->add_flag("--allow-partial", a->allow_partial, kAllowPartial);
  command->add_option("--to", a->to, "The format to write")
      ->required()
      ->check(CLI::IsMember({"diffusers", "peft", "kohya", "comfy"}));
  declare_dtype(*command, a->dtype, "to write. Default: the dtype of each tensor.");
  command->add_option("--base", a->base, kBaseHelp);
  command->add_flag("--approximate", a->approximate,
                    "Replaces layers that the format cannot store by factors of --rank, and prints their error");
  command->add_option("--rank", a->rank, "The rank of those factors");
  a->hub.declare_cache_dir(*command);
  a->threads.declare(*command);
  command->add_flag("--json", a->json, "Prints JSON");
  command->callback([a] { run(*a); });
}

}  // namespace lora::cli
