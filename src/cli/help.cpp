#include "help.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <string_view>

#include "dtype_argument.h"
#include "lora/base_model.h"
#include "lora/scheduler.h"

namespace lora::cli {

namespace {

// From this number on, a verb's options are shown in groups.
constexpr size_t kMany = 16;

struct Row {
  std::string_view name;
  const char* group;            // where a verb has many options
  const char* value = nullptr;  // what the help calls its value; nullptr: as it is declared
};
constexpr Row kRows[] = {
    {"--device", "Model", "DEVICE"},
    {"--dtype", "Model"},
    {"--variant", "Model", "NAME"},
    {"--vae", "Model"},
    {"--text-encoder", "Model"},
    {"--prediction-type", "Model"},
    {"--revision", "Model", "REVISION"},
    {"--cache-dir", "Model"},
    {"--threads", "Model", "NUMBER"},
    {"--lora", "LoRAs"},
    {"--lora-dir", "LoRAs", "DIR"},
    {"--allow-partial", "LoRAs"},
    {"--fuse", "LoRAs"},
    {"--keep-active-above", "LoRAs"},
    {"--prompt", "Prompts"},
    {"--prompt-2", "Prompts"},
    {"--prompt-3", "Prompts"},
    {"--negative", "Prompts"},
    {"--prompts", "Prompts", "FILE"},
    {"--prompt-syntax", "Prompts"},
    {"--embedding", "Prompts"},
    {"--style", "Prompts", "NAME"},
    {"--styles", "Prompts", "FILE"},
    {"--steps", "Drawing", "NUMBER"},
    {"--cfg", "Drawing", "NUMBER"},
    {"--seed", "Drawing", "NUMBER"},
    {"--size", "Drawing", "SIZE"},
    {"--count", "Drawing", "NUMBER"},
    {"--scheduler", "Drawing", "NAME"},
    {"--eta", "Drawing", "NUMBER"},
    {"--guidance-rescale", "Drawing", "NUMBER"},
    {"--clip-skip", "Drawing", "NUMBER"},
    {"--refiner", "Drawing", "PATH"},
    {"--refiner-start", "Drawing", "NUMBER"},
    {"--batch-size", "Memory", "NUMBER"},
    {"--vae-tiling", "Memory"},
    {"--low-memory", "Memory"},
    {"--yes", "Memory"},
    {"--image", "Pictures to start from", "FILE"},
    {"--strength", "Pictures to start from", "NUMBER"},
    {"--mask", "Pictures to start from", "FILE"},
    {"--mask-invert", "Pictures to start from"},
    {"--mask-blur", "Pictures to start from", "NUMBER"},
    {"--keep-unmasked", "Pictures to start from"},
    {"--only-masked", "Pictures to start from"},
    {"--x", "Axes"},
    {"--y", "Axes"},
    {"--from", "Drawing", "FILE"},
    {"--output", "Output", "FILE"},
    {"--json", "Output"},
    {"--inputs", nullptr, "FILE"},
    {"--component", nullptr, "NAME"},
    {"--components", nullptr, "NAMES"},
    {"--base", nullptr, "NAME"},
    {"--model", nullptr, "PATH"},
    {"--rank", nullptr, "NUMBER"},
    {"--to", nullptr, "FORMAT"},
    {"MODEL", nullptr, "PATH"},
    {"DIR", nullptr, "DIR"},
    {"OTHER", nullptr, "FILE"},
    {"PICTURE", nullptr, "FILE"},
    {"REPO", nullptr, "NAME"},
    {"SHELL", nullptr, "NAME"},
};

struct Examples {
  const char *verb, *lines;
};
constexpr Examples kExamples[] = {
    {"generate",
     "lora generate models/tiny -p \"a cute penguin\" --lora models/loras/ink.safetensors:0.8 -o penguin.png\n"
     "lora generate owner/model -p \"a cat\" --size 768x512 --steps 30 --count 4 --scheduler \"DPM++ 2M Karras\"\n"
     "lora generate model.safetensors -p \"a red door\" --image house.png --mask door.png\n"
     "lora generate --from penguin.png --seed 7 -o other.webp"},
    {"grid",
     "lora grid models/tiny -p \"a cute penguin\" --x \"weight models/loras/ink.safetensors: 0-1 [5]\" --y \"seed: "
     "1-3\"\n"
     "lora grid model.safetensors --x \"lora: none, ink.safetensors:0.8\" --y \"prompt: red apple | rocket\""},
    {"info", "lora info penguin.png\nlora info --json penguin.png theirs.jpeg"},
    {"list", "lora list loras --base sdxl --sort date\nlora list loras --json"},
    {"inspect",
     "lora inspect style.safetensors\n"
     "lora inspect style.safetensors --model models/tiny\n"
     "lora inspect style.safetensors other.safetensors"},
    {"convert",
     "lora convert style.safetensors --to kohya -o style-kohya.safetensors\n"
     "lora convert style.safetensors --to peft --dtype fp16 -o style-peft"},
    {"fuse", "lora fuse models/tiny --lora models/loras/ink.safetensors:0.8 -o tiny-ink"},
    {"forward",
     "lora forward models/tiny --component text_encoder --inputs in.safetensors -o out.safetensors\n"
     "lora forward models/tiny --component unet --lora style.safetensors --inputs in.safetensors -o out.safetensors"},
    {"download",
     "lora download owner/name\n"
     "lora download owner/name --include \"*.json\" --revision v1.0"},
    {"cache list", "lora cache list\nlora cache list --json"},
    {"cache verify", "lora cache verify\nlora cache verify owner/name"},
    {"cache remove", "lora cache remove owner/name --revision v1.0"},
    {"completions",
     "lora completions bash > ~/.local/share/bash-completion/completions/lora\n"
     "lora completions zsh > ~/.zfunc/_lora\n"
     "lora completions fish > ~/.config/fish/completions/lora.fish"},
    {"man", "lora man | man -l -"},
};

const Row* row_of(const CLI::Option& option) {
  for (const auto& row : kRows) {
    const bool named = row.name.starts_with("--") ? option.check_lname(std::string(row.name.substr(2)))
                                                  : option.get_positional() && option.get_name(true) == row.name;
    if (named) return &row;
  }
  return nullptr;
}

void arrange_options(CLI::App& verb) {
  const auto options = verb.get_options();
  for (auto* option : options) {
    const auto* row = row_of(*option);
    if (!row) continue;
    const auto own = option->get_type_name();
    if (row->value &&
        (own.starts_with("TEXT") || own.starts_with("INT") || own.starts_with("FLOAT") || own.starts_with("UINT")))
      option->type_name(row->value);
    if (row->group && options.size() >= kMany) option->group(row->group);
  }
}

void add_examples(CLI::App& verb, const std::string& path) {
  for (const auto& each : kExamples) {
    if (path != each.verb) continue;
    auto footer = verb.get_footer();
    if (!footer.empty()) footer += "\n\n";
    std::string lines = "  " + std::string(each.lines);
    for (size_t at = 0; (at = lines.find('\n', at)) != lines.npos; ++at) lines.insert(at + 1, "  ");
    verb.footer(footer + "Examples:\n" + lines);
  }
}

void arrange(CLI::App& verb, const std::string& path) {
  arrange_options(verb);
  add_examples(verb, path);
  for (auto* below : verb.get_subcommands([](CLI::App*) { return true; }))
    arrange(*below, path.empty() ? below->get_name() : path + " " + below->get_name());
}

}  // namespace

void arrange_help(CLI::App& app) { arrange(app, ""); }

std::vector<std::string> values_of(const CLI::Option& option) {
  if (option.check_lname("scheduler")) return Scheduler::names();
  if (option.check_lname("dtype")) return dtype_names();
  if (option.check_lname("base")) return base_model_names();
  if (option.check_lname("device")) return {"cpu", "cuda"};
  return {};
}

}  // namespace lora::cli
