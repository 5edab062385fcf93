#pragma once
// Makes named tensors from the values of a pickle.
#include <functional>

#include "io/mapped_file.h"
#include "io/pickle.h"
#include "lora/state_dict.h"

namespace lora {

// A tensor's name is the dict keys on the way to it, joined with '.'. If there is a dict under "state_dict", as in
// training checkpoints, only its tensors count. A list at the top gives the names "0", "1", … Numbers become tensors
// without dimensions. Text becomes metadata. Other values are skipped. `load` returns the bytes of a storage; it is
// called once for each. Without `load`, the tensors are on the device meta. Throws Error{bad_file} if there are no
// tensors.
StateDict pickle_state_dict(const Pickle& pickle, const MappedFile& file,
                            const std::function<c10::Storage(const PickleStorage&)>& load);

}  // namespace lora
