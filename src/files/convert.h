#pragma once
// A LoRA file in another spelling, its effect kept.
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "files/inspect.h"
#include "lora/tensor.h"

namespace lora {

struct ConvertOptions {
  std::string to;                      // "diffusers", "peft", "kohya", "comfy"
  std::optional<Dtype> dtype;          // of the tensors; none: as they are
  std::optional<int64_t> approximate;  // factors of that rank for what diffusers and PEFT cannot say
};

struct Conversion {
  std::vector<std::filesystem::path> files;  // as written
  size_t layers = 0;
  size_t approximated = 0;
  double mean_error = 0, largest_error = 0;  // of those: what is missing, as a share of the whole (Frobenius)
  std::string worst;                         // the layer of the largest
  std::vector<std::string> notes;

  std::string text() const;
};

// Writes `out`: a file, or for peft a folder with one folder a component. One layer at a time is in memory; `out` may
// be the source. Throws as a load does; Error{unsupported} naming the layers for what the target cannot say,
// Error{usage} for options that go with no file, Error{io}. Nothing is written then.
Conversion convert_lora(const std::filesystem::path& source, const std::filesystem::path& out,
                        const ConvertOptions& options, const ToolProgress& progress = {});

}  // namespace lora
