#pragma once
// What the subcommands share: adapters on the command line, devices, progress.
#include <CLI/CLI.hpp>
#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "lora/lora.h"

namespace lora {

// One file and how strongly it is to act: "style.safetensors", "style.safetensors:0.6", or by component and block
// `style.safetensors:{"unet": {"down": 0.5}, "text_encoder": 0}`. Beside the components, "weight" is a number for all
// of them; "schedule" says factors from fractions of the run on, `{"0": 1, "0.5": 0}`; "mask" is a PNG that is white
// where the adapter acts; "images" are the numbers, from 1, of the pictures of the batch that it is for.
struct LoraArgument {
  std::string file, text;  // as given: text is the weight's
  LoraScale weight;
  std::map<double, double> schedule;
  std::string mask;
  std::vector<int> images;

  // Whether it can only be said for one call, not set on the pipeline.
  bool is_of_a_call() const { return !schedule.empty() || !mask.empty() || !images.empty(); }
};

// Throws Error{usage} where what follows the file is no weight.
LoraArgument parse_lora_argument(const std::string& text);

// A prompt without its `<lora:NAME:WEIGHT>` tags, and the files that they name in `folder` (NAME.safetensors, at any
// depth). Throws Error{usage} where there are tags but no folder, Error{not_found} with the nearest name.
struct TaggedPrompt {
  std::string prompt;
  std::vector<LoraArgument> loras;
};
TaggedPrompt take_lora_tags(const std::string& prompt, const std::string& folder);

struct ModelArguments {
  std::string model, dtype, device = "cpu", variant;
  std::vector<std::string> loras;

  // Declares MODEL, --lora, --dtype, --device and --variant.
  void declare(CLI::App& command);
  PipelineOptions pipeline_options() const;
  std::vector<LoraArgument> lora_arguments() const;
};

// Loads the adapters and sets them all active at their weights; their names are the files' stems or the repositories'
// names, numbered where two are alike. Throws Error{usage} for those that are of a call, unless `for_a_call`.
std::vector<LoadReport> load_loras(LoraBaseMixin& pipe, const std::vector<LoraArgument>& loras,
                                   bool for_a_call = false);

// The adapters of a call of `images` pictures, named as their reports say, into its options, where one needs it.
void set_call_adapters(const std::vector<LoraArgument>& loras, const std::vector<LoadReport>& reports, int images,
                       CallOptions& options);

// A bar on stderr with the time a step takes, where stderr is a terminal.
class Progress {
 public:
  void show(int done, int total);
  double seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

// A bar for work that is mostly over at once: none in the first second.
std::function<void(int done, int total)> progress_after_a_second();
// The same for what comes from the Hub: files, bytes and bytes a second.
std::function<bool(const HubProgress&)> download_progress();

// The subcommands: each declares itself under `app`.
void declare_generate(CLI::App& app);
void declare_inspect(CLI::App& app);
void declare_convert(CLI::App& app);
void declare_fuse(CLI::App& app);
void declare_forward(CLI::App& app);
void declare_download(CLI::App& app);
void declare_cache(CLI::App& app);

}  // namespace lora
