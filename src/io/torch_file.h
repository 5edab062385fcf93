#pragma once
// Files of torch.save: the zip layout and the older one of pickles in a row.
#include <memory>

#include "io/mapped_file.h"
#include "lora/state_dict.h"

namespace lora {

// Storages alias the private mapping, or are copies where the file has them compressed or at an address that their
// dtype cannot have; views of one storage in the file are views of one storage in memory. Throws Error{bad_file,
// unsupported}.
StateDict read_torch_zip(const MappedFile& file);
StateDict read_torch_legacy(const MappedFile& file);

}  // namespace lora
