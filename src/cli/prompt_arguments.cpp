#include "prompt_arguments.h"

#include "check.h"
#include "prompt_tags.h"
#include "styles.h"
#include "text_file.h"

namespace lora::cli {

void PromptArguments::declare(CLI::App& command) {
  command.add_option(
      "-p,--prompt", prompt,
      "What to draw; - reads it from stdin. <lora:NAME:WEIGHT> in the text loads a LoRA from --lora-dir. With two "
      "weights, the first is for the text encoders and the second for the UNet.");
  command.add_option(
      "--prompts", file,
      "A file of prompts, one a line, in place of --prompt. A line may end with --n NEGATIVE, --w WIDTH, "
      "--h HEIGHT, --d SEED, --l CFG and --s STEPS. A line that begins with # is left out.");
  command.add_option("--prompt-2", prompt_2, "The text for the second text encoder (SDXL, SD 3). Default: --prompt.");
  command.add_option("--prompt-3", prompt_3, "The text for the third text encoder (SD 3). Default: --prompt.");
  command.add_option("-n,--negative", negative, "What not to draw; - reads it from stdin");
  command
      .add_option("--prompt-syntax", syntax,
                  "attention: (word:1.2), ((word)), [word] and BREAK as in A1111, and prompts of any length. plain: "
                  "each character is text, and a text encoder does not read the end of a long prompt.")
      ->check(CLI::IsMember({"attention", "plain"}))
      ->capture_default_str();
  command.add_option("--style", styles, "A style of --styles for the prompt and the negative prompt. May be repeated.")
      ->take_all()
      ->allow_extra_args(false);
  command.add_option(
      "--styles", styles_file,
      "A CSV file of styles, as A1111 writes it: name,prompt,negative_prompt. {prompt} in a style is the "
      "place of the prompt.");
}

std::vector<PromptLine> PromptArguments::lines(int count) const {
  check(prompt.has_value() || !file.empty(), ErrorKind::usage, "--prompt is required, or a file as --prompts");
  check(!prompt.has_value() || file.empty(), ErrorKind::usage,
        "--prompt and --prompts are both given. Give one of them.");
  check(prompt != "-" || negative != "-", ErrorKind::usage,
        "--prompt - and --negative - both read stdin. Give one of the two texts.");
  check(styles.empty() || !styles_file.empty(), ErrorKind::usage, "--style needs the file of the styles as --styles");
  check(!styles.empty() || styles_file.empty(), ErrorKind::usage, "--styles needs the name of a style as --style");
  auto text = [](const char* option, const std::string& given) { return given == "-" ? read_stdin(option) : given; };
  const auto unwanted = negative ? std::optional(text("--negative", *negative)) : std::nullopt;
  auto all = file.empty() ? std::vector<PromptLine>{{.place = "", .prompt = text("--prompt", *prompt)}}
                          : read_prompt_lines(file, count);
  const auto wanted_styles = styles.empty() ? std::vector<Style>() : read_styles(styles_file, styles);
  for (auto& line : all) {
    if (!line.negative) line.negative = unwanted;
    for (const auto& style : wanted_styles) apply_style(style, line);
    if (line.negative)
      check_no_lora_tags(line.place.empty() ? "--negative" : line.place + ": the negative prompt", *line.negative);
  }
  if (prompt_2) check_no_lora_tags("--prompt-2", *prompt_2);
  if (prompt_3) check_no_lora_tags("--prompt-3", *prompt_3);
  return all;
}

}  // namespace lora::cli
