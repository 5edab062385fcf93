#pragma once
// Reads files of torch.save: the zip layout, and the older layout of several pickles in a row.
#include <memory>

#include "io/mapped_file.h"
#include "io/tensor_sizes.h"
#include "lora/state_dict.h"

namespace lora {

// Storages alias the private mapping. A storage that is compressed, or whose position does not fit its dtype's
// alignment, is a copy. Views of one storage in the file are views of one storage in memory. Throws Error{bad_file,
// unsupported}.
StateDict read_torch_zip(const MappedFile& file, Content content = Content::tensors);
StateDict read_torch_legacy(const MappedFile& file, Content content = Content::tensors);

}  // namespace lora
