#include "files/convert.h"

#include <fmt/format.h>

#include "cli/common.h"
#include "core/check.h"

namespace lora {

namespace {

struct Arguments {
  std::string file, out, to, dtype;
  bool approximate = false;
  int64_t rank = 0;
};

void run(const Arguments& a) {
  check(!a.approximate || a.rank > 0, ErrorKind::usage,
        "--approximate needs --rank N, the rank of the factors that stand in");
  check(a.approximate || a.rank == 0, ErrorKind::usage,
        "--rank is for --approximate; without it factors keep the ranks that they have");
  ConvertOptions options{.to = a.to};
  if (!a.dtype.empty()) options.dtype = parse_dtype(a.dtype);
  if (a.approximate) options.approximate = a.rank;
  fmt::print("{}", convert_lora(a.file, a.out, options, progress_after_a_second()).text());
}

}  // namespace

void declare_convert(CLI::App& app) {
  auto a = std::make_shared<Arguments>();
  auto* command = app.add_subcommand("convert", "Writes a LoRA file as other programs spell it, its effect kept");
  command->add_option("FILE", a->file, "A LoRA file, a folder that holds one, or a repository on the Hub (owner/name)")
      ->required();
  command->add_option("-o,--output", a->out, "The file to write; for peft a folder")->required();
  command->add_option("--to", a->to, "diffusers, peft, kohya or comfy")
      ->required()
      ->check(CLI::IsMember({"diffusers", "peft", "kohya", "comfy"}));
  command->add_option("--dtype", a->dtype, "float32, float16 or bfloat16; as it is where not given")
      ->check(CLI::IsMember({"float32", "float16", "bfloat16"}));
  command->add_flag("--approximate", a->approximate,
                    "Factors of --rank for what the target cannot say; tells how far they are off");
  command->add_option("--rank", a->rank, "Of those factors")->check(CLI::PositiveNumber);
  command->callback([a] { run(*a); });
}

}  // namespace lora
