#pragma once
// The safetensors format: 8 bytes of header length, a JSON header, the tensors' bytes without a hole.
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "io/mapped_file.h"
#include "lora/state_dict.h"

namespace lora {

struct SafetensorsEntry {
  std::string name;
  Dtype dtype = at::kFloat;
  std::vector<int64_t> shape;
  uint64_t begin = 0, end = 0;  // within the data, which follows the header
};

struct SafetensorsHeader {
  std::map<std::string, std::string> metadata;
  std::vector<SafetensorsEntry> entries;  // in the order of their data
  size_t data_start = 0;                  // in the file
};

// Checks everything there is to check: after it, every entry lies in the file, has the size that its shape and dtype
// make, and the entries cover the data from its start to the end of the file without hole or overlap. `file` is the
// file's whole content, `where` its name for messages. Throws Error{bad_file, unsupported}.
SafetensorsHeader parse_safetensors_header(std::string_view file, const std::string& where);

// Tensors alias the private mapping, or are copies where the file has them at an address that their dtype cannot have.
StateDict read_safetensors(const MappedFile& file);

// A tensor that is made when it is written, so that a file takes no more memory than its largest tensor.
struct PendingTensor {
  std::string name;
  Dtype dtype = at::kFloat;
  std::vector<int64_t> shape;
  std::function<Tensor()> make;  // of that dtype and shape, on any device
};

// What save_safetensors does for tensors that are there. Where `hash_key` is given, the metadata gets the SHA-256 of
// the data under that name, 64 digits.
void save_safetensors(const std::vector<PendingTensor>& tensors, std::map<std::string, std::string> metadata,
                      const std::filesystem::path& file, const std::string& hash_key = "");

}  // namespace lora
