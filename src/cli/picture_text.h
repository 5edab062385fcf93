#pragma once
// What a picture says of how it was drawn.
#include <CLI/CLI.hpp>
#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "drawings.h"
#include "infotext.h"
#include "lora/pipeline.h"

namespace lora::cli {

// The keywords of a picture's texts.
inline constexpr const char* kOwnText = "lora.cpp";      // JSON, as texts_of() makes it
inline constexpr const char* kA1111Text = "parameters";  // A1111's infotext
inline constexpr const char* kSeedText = "seed";         // the seed alone, for scripts
inline constexpr const char* kComfyText = "prompt";      // JSON: ComfyUI's nodes

// The JSON object that a text is; null for another text. What is nested too deeply is left out.
nlohmann::ordered_json json_object(const std::string& text);

// The name of an option in a picture: its long name without dashes, or "model". An option without a long name has "".
std::string picture_name(const CLI::Option& option);
// Whether a picture keeps the option. Options that do not matter to a single picture are not kept, such as --output.
bool is_of_picture(const std::string& name);

// A LoRA that was loaded, as a picture names it.
struct LoraOfPicture {
  LoraArgument argument;
  std::string name;                // its file without the ending
  std::string sha256, a1111_hash;  // as in FileHashes; empty for what is no file here

  // Reads the whole file.
  LoraOfPicture(const LoraArgument& lora, const LoadReport& report);
  // Its weight for one picture of a batch, as --lora takes it: a number, or JSON without "images".
  nlohmann::ordered_json weight_on(const DiffusionPipeline& pipe) const;
};

// One picture of a drawing.
struct DrawnPicture {
  const CLI::App& command;  // of which verb, with the options that were given
  const DiffusionPipeline& pipe;
  const Drawing& drawing;
  std::vector<const LoraOfPicture*> loras;  // that act on it
  uint64_t seed = 0;
  int steps = 0;              // of the run
  int width = 0, height = 0;  // of the picture
};

// Three texts: kA1111Text, kSeedText, and kOwnText with all that `generate --from` needs to draw the picture again:
//   {"version": "0.1.0", "pipeline": …, "scheduler": …, "steps_of_run": 20,
//    "options": {"model": …, "prompt": …, "seed": 5, …},
//    "loras": [{"file": …, "weight": 0.5, "hash": …, "sha256": …}]}
std::map<std::string, std::string> texts_of(const DrawnPicture& picture);

}  // namespace lora::cli
