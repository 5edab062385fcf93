#pragma once
// LoRAs that a prompt names.
#include <functional>
#include <string>
#include <vector>

#include "lora_argument.h"

namespace lora::cli {

// A prompt without its `<lora:…>` tags, and the LoRAs of the tags.
struct TaggedPrompt {
  std::string prompt;
  std::vector<LoraArgument> loras;
};

// The tags are those of A1111, in upper or lower case:
//   <lora:NAME>  <lora:NAME:WEIGHT>  <lora:NAME:TEXT_ENCODERS:DENOISER>  <lora:NAME:te=WEIGHT:unet=WEIGHT>
// `<lyco:…>` is the same. find_lora() finds NAME in the folder. Notes tags of other words, which stay text. Throws
// Error{usage} where a tag is wrong or not closed, where there are tags and no folder, and as find_lora() does.
TaggedPrompt take_lora_tags(const std::string& prompt, const std::string& folder);

// The prompt with other names in its tags. A tag for whose name `rename` gives "" is left out.
std::string with_other_tags(const std::string& prompt,
                            const std::function<std::string(const std::string& name)>& rename);

// Throws Error{usage} where a text has such tags. `option` names it.
void check_no_lora_tags(const std::string& option, const std::string& text);

}  // namespace lora::cli
