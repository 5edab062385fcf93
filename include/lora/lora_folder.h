#pragma once
// The LoRAs of a folder: a list of them, and one of them by its name.
//
// Threads: any number of threads may call these functions at once. Results are values.
//
// What a progress function throws leaves the call as it is. Everything else that is thrown is lora::Error.
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "lora/base_model.h"
#include "lora/files.h"

namespace lora {

// ---- A list ---------------------------------------------------------------------------------------------------------

// One file of a folder, as far as its names, sizes and metadata tell. A text is "" where nothing tells it.
struct ListedLora {
  std::filesystem::path file;  // the folder's path, and the way from there
  std::string name;            // the way from the folder, without the file's ending: what <lora:NAME> takes
  uint64_t size = 0;           // bytes of the file
  std::chrono::system_clock::time_point modified;

  size_t layers = 0;  // 0: it is no LoRA, or cannot be read
  BaseModel base_model = BaseModel::unknown;
  std::string known_by;                // as in Inspection
  std::string kind;                    // Inspection::algorithm: "LoRA", "LoKr + DoRA"
  std::string dialect;                 // as in Inspection
  std::string trainer;                 // as in Inspection
  int64_t min_rank = 0, max_rank = 0;  // of the layers that have a rank; 0 where none has
  std::string title;                   // modelspec.title
  std::string output_name;             // ss_output_name
  std::string trigger_phrase;          // modelspec.trigger_phrase
  // The tags of most training pictures, with their numbers: at most 20 of ss_tag_frequency, the most frequent first.
  std::vector<std::pair<std::string, uint64_t>> tags;

  // The SHA-256 by which A1111 names the LoRA: 64 digits. It is sshs_model_hash, or else of a safetensors file's data,
  // or else of the whole file.
  std::string hash;
  std::string hash_from;  // "metadata", "file", or "" for no hash

  // Begins with one of these:
  // - "fits": the published base model has all layers, in their sizes, as far as the tensors tell them. For Flux, only
  //   the names are compared.
  // - "not compared": the layers of the base model are not known here
  // - "unknown base"
  // - "problem: …": layers that the base model does not have, halves of pairs, metadata for another base model
  // - "in part: …": some keys of adapters are not understood
  // - "not a LoRA: …": what it is
  // - "cannot be loaded: …": an adapter that is not understood
  // - "cannot be read: …": a file that is damaged, or no tensor file
  // The numbers in the tensors are not read. inspect_lora() reads them too.
  std::string verdict;
  std::string error;  // the whole reason, where the verdict is one of the last three
};

enum class LoraOrder {
  name,  // capitals do not matter
  base,  // by the base model's name; files without one come last
  rank,  // the highest first
  date,  // the newest first
  size,  // the largest first
};

struct ListLorasOptions {
  std::vector<BaseModel> base_models;  // lists only LoRAs for one of these; empty: lists every file
  LoraOrder sort = LoraOrder::name;    // files that are equal in it are in the order of their names
  // Also computes the hash of each listed LoRA whose metadata states none. That reads the whole file.
  bool hash = false;
  // A file that keeps what was read, by path, size and time of change. Files that did not change since are not opened
  // again. Several processes may use one cache, and several folders. A cache that is broken, or cannot be written, is a
  // note. Empty: no cache.
  std::filesystem::path cache;
  ToolProgress progress;  // files
};

struct LoraList {
  std::vector<ListedLora> loras;
  std::vector<std::string> notes;  // folders that cannot be read, what is wrong with the cache, files without a hash

  // A table for people. `columns`: how wide it may be, by cutting what is long; 0: nothing is cut.
  std::string text(size_t columns = 0) const;
  std::string json() const;
};

// Lists all weight files (.safetensors, .ckpt, .pt, .pth, .bin) in a folder and below it. It follows links, and lists
// each folder once. It reads only the header of a file, and of a pickle the pickle without the tensors, on all of
// libtorch's threads. A file that is no LoRA has a row that says so. Throws Error{not_found} if there is no such
// folder.
// Example:
//   for (const auto& lora : lora::list_loras("models/loras").loras) lora.verdict;
LoraList list_loras(const std::filesystem::path& folder, const ListLorasOptions& options = {});

// Where the command keeps its cache of lists: lora.cpp/loras.cbor in $XDG_CACHE_HOME, or in ~/.cache.
std::filesystem::path lora_list_cache();

// ---- One by its name ------------------------------------------------------------------------------------------------

struct NamedLora {
  std::filesystem::path file;
  std::vector<std::string> notes;  // folders that could not be read, what is wrong with the cache
};

// The LoRA file of that name in the folder or in any folder below it. The search follows links, and searches each
// folder once. The name may have the folders before it: "style/ink", or "./style/ink" for all of them. It may have the
// file's ending: .safetensors, .ckpt, .pt, .pth or .bin, also in capitals.
//
// If no file has the name, it is the name of the LoRA whose metadata has it as ss_output_name or modelspec.title. For
// this all files are read as list_loras() reads them, with `cache` as there.
//
// Throws Error{not_found} with the nearest name. Throws Error{usage} that names the files if there are several.
NamedLora find_lora(const std::filesystem::path& folder, const std::string& name,
                    const std::filesystem::path& cache = {});

}  // namespace lora
