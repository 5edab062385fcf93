#pragma once
// A1111's text about a picture: the prompt, "Negative prompt: …", and a line of fields, "Steps: 20, Sampler: Euler a".
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "lora/scheduler.h"

namespace lora::cli {

struct Infotext {
  std::string prompt, negative;
  std::vector<std::pair<std::string, std::string>> fields;  // in their order

  // nullptr where there is no such field.
  const std::string* find(const std::string& field) const;
  // The hashes of "Lora hashes", by the LoRA's name.
  std::vector<std::pair<std::string, std::string>> lora_hashes() const;
};

// Values with commas, colons or line breaks are in quotes, as JSON writes them.
std::string write_infotext(const Infotext& text);
// nullopt where the last line does not have three fields: A1111 reads such a text as a prompt alone.
std::optional<Infotext> read_infotext(const std::string& text);

// "ink: 1fe588b6b478, neon: ee468aa3a116", for a field.
std::string lora_hashes_field(const std::vector<std::pair<std::string, std::string>>& hashes);

// A1111's "Sampler" and "Schedule type" of a scheduler. A scheduler that A1111 does not have is a name for --scheduler.
// The schedule type is empty for the levels of the timesteps.
std::pair<std::string, std::string> sampler_of(const Scheduler& scheduler);

}  // namespace lora::cli
