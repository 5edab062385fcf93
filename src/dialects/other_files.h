#pragma once
// Files and keys that no dialect reads: what they are, as far as their names tell.
#include <string>
#include <string_view>

#include "lora/state_dict.h"

namespace lora {

// What a file without an adapter is, and the key that shows it: "a whole checkpoint". Both are "" where its keys do not
// tell it.
struct OtherFile {
  std::string_view what;
  std::string key;
};
OtherFile other_file(const StateDict& file);

// Why a key is not read: a method that is not known, a name that is not known, or no adapter's at all.
std::string why_not_read(std::string_view key);

// Throws Error{unsupported} for a file of a method that is known, and that cannot be loaded: T-LoRA.
void check_no_unknown_method(const StateDict& file, const std::string& label);

// Throws for a file in which no layer is understood. It says whether the file holds an adapter at all, and otherwise
// what the file looks like.
[[noreturn]] void fail_without_layers(const StateDict& file, const std::string& label);

}  // namespace lora
