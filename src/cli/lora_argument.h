#pragma once
// LoRAs on the command line.
#include <map>
#include <string>
#include <vector>

#include "lora/adapters.h"
#include "lora/lora_options.h"

namespace lora::cli {

// For help texts.
inline constexpr const char* kLoraForms =
    "A LoRA file, a folder with one, a Hub repository (owner/name), or a file of one (owner/name/style.safetensors)";

// Where a LoRA is that the command line names. "owner/name/folder/file.safetensors" is that file of the repository,
// unless a file here has the name.
class LoraPlace {
 public:
  explicit LoraPlace(const std::string& text);

  const std::string& source() const { return source_; }  // what LoraSource takes
  const std::string& weight_name() const { return weight_name_; }
  ReadLoraOptions read_options() const;
  // The name of the repository, or of the file or folder without its ending.
  std::string adapter_name() const;

 private:
  std::string source_, weight_name_;
};

// One LoRA and how strongly it acts: "style.safetensors", "style.safetensors:0.6", or by component and block
// `style.safetensors:{"unet": {"down": 0.5}, "text_encoder": 0}`. The JSON may have four keys beside the components:
//   "weight"    a number for all components
//   "schedule"  factors from fractions of the run on, `{"0": 1, "0.5": 0}`; 1 before the first fraction
//   "mask"      a PNG that is white where the LoRA acts
//   "images"    the numbers of the images of the batch that the LoRA is for, from 1
struct LoraArgument {
  std::string file, text;  // as given; `text` is the weight
  LoraScale weight;
  std::map<double, double> schedule;
  std::string mask;
  std::vector<int> images;

  // Whether a part of it can only apply to one call, and not to the pipeline.
  bool is_of_a_call() const { return !schedule.empty() || !mask.empty() || !images.empty(); }
};

// Throws Error{usage} where what follows the file is not a weight.
LoraArgument parse_lora_argument(const std::string& text);

// A prompt without its `<lora:NAME:WEIGHT>` tags, and the LoRAs of the tags: NAME.safetensors in `folder` or below it.
// Throws Error{usage} where there are tags and no folder, Error{not_found} with the nearest name.
struct TaggedPrompt {
  std::string prompt;
  std::vector<LoraArgument> loras;
};
TaggedPrompt take_lora_tags(const std::string& prompt, const std::string& folder);

}  // namespace lora::cli
