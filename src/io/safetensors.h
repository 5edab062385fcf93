#pragma once
// The safetensors format: 8 bytes of header length, a JSON header, the tensors' bytes without gaps.
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "io/mapped_file.h"
#include "io/tensor_sizes.h"
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

// Reads and checks the header. Afterwards every entry is inside the file and has the size of its shape and dtype. The
// entries cover the data up to the end of the file, without gaps and overlaps. `file` is the whole content of the file,
// `where` its name for messages. Throws Error{bad_file, unsupported}.
SafetensorsHeader parse_safetensors_header(std::string_view file, const std::string& where);

// Tensors alias the private mapping. A tensor whose position in the file does not fit its dtype's alignment is a copy.
StateDict read_safetensors(const MappedFile& file, Content content = Content::tensors);

// A tensor that is made only when it is written. So writing a file needs memory only for its largest tensor.
struct PendingTensor {
  std::string name;
  Dtype dtype = at::kFloat;
  std::vector<int64_t> shape;
  std::function<Tensor()> make;  // returns a tensor of that dtype and shape, on any device
};

// As the public save_safetensors(), for pending tensors. If `hash_key` is not empty, the metadata gets the SHA-256 of
// the data under that name, as 64 digits. `check_written` gets the temporary file before it takes the name `file`. If
// it throws, `file` stays as it was.
void save_safetensors(const std::vector<PendingTensor>& tensors, std::map<std::string, std::string> metadata,
                      const std::filesystem::path& file, const std::string& hash_key = "",
                      const std::function<void(const std::filesystem::path&)>& check_written = {});

}  // namespace lora
