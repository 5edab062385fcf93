#pragma once
// LoRAs on the command line.
#include <algorithm>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "lora/adapters.h"
#include "lora/lora_options.h"

namespace lora::cli {

// For help texts.
inline constexpr const char* kLoraForms =
    "A LoRA file, a folder with one, a Hub repository (owner/name), or a file of one (owner/name/style.safetensors). "
    "owner/name@REVISION is a branch, a tag or a commit";

inline constexpr const char* kAllowPartial =
    "Uses a LoRA of which only a part is understood, without the rest. Default: such a file is an error.";

inline constexpr const char* kBaseHelp =
    "The base model that the file is for, where the file does not tell it: sd1, sd2, sdxl, sdxl-refiner, sd3, flux, "
    "amused, …";

// Throws Error{usage} where a text is a web address. Says how the command names the same thing.
void check_is_no_url(const std::string& text);

// Where a LoRA is that the command line names. "owner/name/folder/file.safetensors" is that file of the repository,
// unless a file here has the name. "owner/name@v1" and "owner/name@v1/file.safetensors" are of the revision v1. Throws
// Error{usage} for a web address and for no text.
class LoraPlace {
 public:
  explicit LoraPlace(const std::string& text);

  const std::string& source() const { return source_; }  // what LoraSource takes
  const std::string& weight_name() const { return weight_name_; }
  // With a bar for downloads. An empty `cache_dir` is the usual cache.
  HubOptions hub_options(const std::string& cache_dir) const;
  ReadLoraOptions read_options(const std::string& cache_dir) const;
  // The name of the repository, or of the file or folder without its ending.
  std::string adapter_name() const;

 private:
  std::string source_, weight_name_, revision_;
};

// One LoRA and how strongly it acts: "style.safetensors", "style.safetensors:0.6", or by component and block
// `style.safetensors:{"unet": {"down": 0.5}, "text_encoder": 0}`. The JSON may have four keys beside the components:
//   "weight"    a number for all components
//   "schedule"  factors from fractions of the run on, `{"0": 1, "0.5": 0}`; 1 before the first fraction
//   "mask"      a picture that is white where the LoRA acts
//   "images"    the numbers of the images of the batch that the LoRA is for, from 1
struct LoraArgument {
  std::string file, text;  // as given; `text` is the weight
  LoraScale weight;
  std::optional<double> text_encoders;  // their weight, where it is apart; `weight` is then that of the denoiser
  std::map<double, double> schedule;
  std::string mask;
  std::vector<int> images;
  std::string cache_dir;  // for a repository; empty: the usual one

  // Whether it acts on an image of the batch. The images count from 1.
  bool acts_on(int image) const {
    return images.empty() || std::find(images.begin(), images.end(), image) != images.end();
  }
  // Whether a part of it can only apply to one call, and not to the pipeline.
  bool is_of_a_call() const { return !schedule.empty() || !mask.empty() || !images.empty(); }
};

// The number that a weight is. Throws Error{usage} that begins with `label` for another text.
double weight_number(const std::string& label, const std::string& text);

// The file of an argument, and what follows it after a colon, if anything does.
std::pair<std::string, std::optional<std::string>> split_after_file(const std::string& text);

// Throws Error{usage} where what follows the file is not a weight.
LoraArgument parse_lora_argument(const std::string& text);

}  // namespace lora::cli
