#include <fmt/format.h>

#include <memory>
#include <optional>
#include <utility>

#include "check.h"
#include "lora/files.h"
#include "lora/text.h"
#include "lora_argument.h"
#include "output.h"
#include "output_path.h"
#include "progress.h"
#include "threads.h"
#include "verbs.h"

namespace lora::cli {

namespace {

struct Arguments {
  Threads threads;
  std::string file, out, to, dtype, base;
  bool approximate = false, allow_partial = false;
  std::optional<int> rank;  // CLI11 takes a number that is too long for 64 bits for the largest of them
};

void run(const Arguments& a) {
  check(!a.approximate || a.rank, ErrorKind::usage, "--approximate needs --rank N, the rank of the new factors");
  check(a.approximate || !a.rank, ErrorKind::usage,
        "--rank needs --approximate. Without it, factors keep their ranks.");
  LoraPlace place(a.file);
  if (a.to == "peft")
    check_can_write_folder(a.out);
  else
    check_can_write_file(a.out);
  ConvertOptions options{.to = a.to, .read = place.read_options(), .progress = progress_after_a_second()};
  if (a.allow_partial) options.read.partial = PartialLora::allow;
  if (!a.dtype.empty()) options.dtype = parse_dtype(a.dtype);
  if (a.approximate) options.approximate = a.rank;
  if (!a.base.empty()) options.read.base_model = parse_base_model(a.base);
  auto done = convert_lora(place.source(), a.out, options);
  for (const auto& text : std::exchange(done.notes, {})) note(printable(text));
  print(done.text());
}

}  // namespace

void declare_convert(CLI::App& app) {
  auto a = std::make_shared<Arguments>();
  auto* command = app.add_subcommand("convert", "Writes a LoRA in another program's format, with the same effect");
  command->add_option("FILE", a->file, kLoraForms)->required();
  command->add_option("-o,--output", a->out, "The file to write. For peft: the folder.")->required();
  command->add_flag("--allow-partial", a->allow_partial, kAllowPartial);
  command->add_option("--to", a->to, "The format to write")
      ->required()
      ->check(CLI::IsMember({"diffusers", "peft", "kohya", "comfy"}));
  command->add_option("--dtype", a->dtype, "float32, bfloat16 or float16 to write. Default: the dtype of each tensor.")
      ->type_name("DTYPE");
  command->add_option("--base", a->base, kBaseHelp);
  command->add_flag("--approximate", a->approximate,
                    "Replaces layers that the format cannot store by factors of --rank, and prints their error");
  command->add_option("--rank", a->rank, "The rank of those factors");
  a->threads.declare(*command);
  command->callback([a] { run(*a); });
}

}  // namespace lora::cli
