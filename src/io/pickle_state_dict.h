#pragma once
// From a pickle's values to named tensors.
#include <functional>

#include "io/mapped_file.h"
#include "io/pickle.h"
#include "lora/state_dict.h"

namespace lora {

// Names are the dict keys on the way to a tensor, joined with '.'. A dict under "state_dict" stands for the whole file,
// as training checkpoints have it; a list at the top gives the names "0", "1", … Numbers become tensors of no
// dimension, text becomes metadata, everything else is passed over. `load` gives the bytes of a storage; it is asked
// once for each. Throws Error{bad_file} where no tensor is left.
StateDict pickle_state_dict(const Pickle& pickle, const MappedFile& file,
                            const std::function<c10::Storage(const PickleStorage&)>& load);

}  // namespace lora
