#pragma once
// --from: the options of a call from what a picture says.
#include <CLI/CLI.hpp>
#include <optional>
#include <string>
#include <vector>

#include "draw_arguments.h"
#include "infotext.h"

namespace lora::cli {

class FromPicture {
 public:
  // Declares --from. It gives values to the options that the line does not have, before a file with defaults does.
  // MODEL may be left out then. Throws Error{usage} for a picture that says nothing of how it was drawn, and for
  // options that this version does not have.
  void declare(CLI::App& command);

  // Call it once all options have their values. Finds the LoRAs of the picture: by their hash in --lora-dir, or else by
  // their name, which is noted. Throws Error{not_found} for a LoRA that is not found. Without --from, does nothing.
  void find_loras(DrawArguments& arguments) const;

 private:
  // A LoRA of a picture that lora.cpp drew.
  struct Lora {
    std::string file, weight, hash;
  };
  class LorasByHash;

  void read(CLI::App& command);
  void read_own(CLI::App& command, const std::string& text);
  void read_a1111(CLI::App& command, const Infotext& text);
  std::string file_of(const Lora& lora, const std::string& folder, LorasByHash& by_hash) const;

  std::string picture_;
  bool loras_are_given_ = false, prompt_is_given_ = false;  // on the line
  std::vector<Lora> loras_;
  std::optional<Infotext> infotext_;
};

}  // namespace lora::cli
