#pragma once
// Tools for LoRA files: what a file is, how alike two are, the same LoRA for another program, hashes. No model is
// opened for any of them.
//
// Threads: any number of threads may call these functions at once. Results are values; const calls on one result may
// run on several threads at once.
//
// What a progress function throws leaves the call as it is. Everything else that is thrown is lora::Error.
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "lora/lora_file.h"

namespace lora {

// Called as the work goes on: `done` of `total` layers, or tensors where a file is written. Calls come one at a time,
// not always from the caller's thread.
using ToolProgress = std::function<void(int done, int total)>;

// ---- Hashes ---------------------------------------------------------------------------------------------------------

// The hashes by which tools know a LoRA file. Digests are lower-case hexadecimal.
struct FileHashes {
  std::string file;  // SHA-256 of the whole file
  std::string data;  // SHA-256 of a safetensors file's data, which its metadata does not change; "" for other files
  // The hash by which A1111 names a LoRA in its pictures: sshs_model_hash of the metadata, or else `data`, or else
  // `file`.
  std::string a1111;
  // The hashes that the metadata states, by key: "sshs_model_hash", "sshs_legacy_hash", "modelspec.hash_sha256". The
  // value is "matches", "differs: …", or the reason why the hash cannot be checked.
  std::map<std::string, std::string> claims;

  std::string auto_v2() const { return file.substr(0, 10); }  // A1111's short names of the two digests
  std::string auto_v3() const { return data.substr(0, 12); }
  bool changed() const;  // whether a hash in the metadata differs
};

// Reads the whole file. A second thread takes half of the work. Throws Error{not_found, bad_file, io}.
FileHashes hash_file(const std::filesystem::path& file);

// ---- One file -------------------------------------------------------------------------------------------------------

// What a LoRA is, what it is for, and whether it is sound.
struct Inspection {
  struct Layer {
    std::string component;          // "unet", "transformer", "text_encoder", …
    std::string path;               // of the module, as in diffusers
    std::string kind;               // for people: "LoRA", "DoRA", "LoHa", "half a pair", …
    bool incomplete = false;        // only one half of a pair of factors is there
    bool depends_on_base = false;   // what the layer changes depends on the base weight: DoRA, OFT, BOFT, GLoRA, IA3
    int64_t rank = 0;               // 0 for kinds without a rank
    double alpha = 0;               // the rank where the file states no alpha
    bool convolution = false;       // otherwise linear
    int64_t rows = 0, columns = 0;  // of the base weight as a matrix; 0 where the tensors do not tell
    double norm = 0;                // Frobenius norm of what is added at strength 1; 0 for most that depend on the base
    std::string error;              // why the norm cannot be computed; "" where it can
  };
  struct Ranks {  // the layers that share a rank and an alpha
    int64_t rank;
    double alpha;  // the rank where the file states no alpha
    size_t layers;
  };
  struct Component {
    std::string name;
    std::map<std::string, size_t> kinds;  // how many layers each kind has
    size_t linear_layers = 0, conv_layers = 0;
    std::vector<Ranks> ranks;  // the row of most layers first
    std::string model;         // the published model that fits best, "SDXL's UNet"; "" for an unknown one
    size_t covered = 0;        // how many linear layers and convolutions of that model the LoRA has
    size_t of = 0;             // how many linear layers and convolutions that model has
  };
  struct Finding {
    bool problem = false;             // otherwise a remark
    std::string what;                 // one sentence
    std::vector<std::string> layers;  // `<component>.<path>`, or keys of the file
  };

  std::string file;          // the path, the repository and the name in it, or "state dict"
  std::string dialect;       // "kohya", "peft", …; several are joined by " + "
  std::string algorithm;     // the kinds of layers, joined by " + ", the most frequent first
  std::string trainer;       // the program that wrote the file; "" where nothing tells it
  std::string architecture;  // the base model, "SDXL"; "" where nothing tells it
  std::string known_by;      // what tells the base model
  std::vector<Component> components;
  std::vector<Layer> layers;
  std::map<std::string, std::vector<std::string>> words;  // new words of prompts, with their text encoders
  // Of all tensors of the file, understood or not: how many each dtype has, their bytes, and their number.
  std::map<std::string, size_t> dtypes;
  uint64_t bytes = 0;
  size_t tensors = 0;
  FileHashes hashes;  // empty for a folder with a file for each component, and for tensors in memory
  std::vector<Finding> findings;
  std::map<std::string, std::string> metadata;
  std::vector<LoadReport::Unmatched> unmatched;  // keys that are not understood
  std::vector<std::string> notes;

  size_t problems() const;      // how many findings are problems
  std::string verdict() const;  // one line
  std::string text() const;     // for people: long values are cut
  std::string json() const;     // everything; a number that is not finite is null
};

struct InspectOptions {
  ReadLoraOptions read;  // which file of a folder or repository, and how to download it
  ToolProgress progress;
};

// Reads every tensor, on all of libtorch's threads. Throws Error{not_found, bad_file, bad_key, bad_shape, unsupported}
// where the source holds no LoRA that can be read; for a repository as hf_hub_download() does. Damage in a layer is a
// finding, not an error.
Inspection inspect_lora(const LoraSource& source, const InspectOptions& options = {});

// ---- Two files ------------------------------------------------------------------------------------------------------

// How alike two LoRAs are, by what they change in the base model.
struct Comparison {
  struct Row {
    std::string layer;  // `<component>.<path>`
    double cosine = 0;  // between the two changes, each as one long vector: -1 to 1; NaN where they cannot be compared
    double ratio = 0;   // the norm of the second change over that of the first; NaN where they cannot be compared
    std::string note;   // why there are no numbers, or what the numbers are of; "" for what the layer adds
  };

  std::string a, b;                               // the sources
  std::vector<Row> rows;                          // layers that both have
  std::vector<std::string> only_in_a, only_in_b;  // `<component>.<path>`
  double cosine = 0, ratio = 0;                   // over all layers that have numbers, as one vector
  std::vector<std::string> notes;                 // about the files: what was passed over, for example

  std::string summary() const;  // one line
  std::string text() const;
  std::string json() const;  // a number that is not finite is null
};

struct CompareOptions {
  ReadLoraOptions read_a, read_b;
  ToolProgress progress;
};

// Layers whose change depends on the base model are compared by their tensors, and the row says so. Throws as
// inspect_lora() does, and Error{bad_shape} for factors that do not go together.
Comparison compare_loras(const LoraSource& a, const LoraSource& b, const CompareOptions& options = {});

// ---- Another format -------------------------------------------------------------------------------------------------

struct ConvertOptions {
  std::string to;              // "diffusers", "peft", "kohya" or "comfy"
  std::optional<Dtype> dtype;  // of the written tensors but for alphas, which are float32; none: the dtype they have
  // For "diffusers" and "peft", which store plain factors only: the rank, at least 1, of the factors that replace other
  // kinds of layers. None: such a layer is an error.
  std::optional<int64_t> approximate;
  ReadLoraOptions read;
  ToolProgress progress;
};

struct Conversion {
  std::vector<std::filesystem::path> files;  // that were written
  size_t layers = 0;
  size_t approximated = 0;  // layers that were replaced by factors which are not exact
  // Of the approximated layers: the Frobenius norm of what is missing, over the norm of the whole change.
  double mean_error = 0, largest_error = 0;
  std::string worst;  // the layer of largest_error
  std::vector<std::string> notes;

  std::string text() const;
};

// Writes the LoRA in another program's format, with the same effect. `out` is the file to write. For "peft" it is a
// folder, which gets one folder for each component. `out` may be the source. At most two layers are in memory at a
// time. What was written is read again and compared with the source before it gets its name.
//
// If `dtype` cannot hold all numbers of a layer's factors, they are rescaled so that their product stays the same. The
// notes say that, and which numbers became zero.
//
// Throws as inspect_lora() does. Throws Error{unsupported} naming the layers that the format or the dtype cannot store,
// Error{bad_key} for half a pair of factors, Error{usage} for options and names that do not fit, Error{conflict} for a
// folder with an adapter for another component, Error{io}. Then nothing is written, and an old output stays whole.
// Example:
//   lora::convert_lora("models/loras/neon-kohya.safetensors", "neon.safetensors", {.to = "diffusers"});
Conversion convert_lora(const LoraSource& source, const std::filesystem::path& out, const ConvertOptions& options);

}  // namespace lora
