#pragma once
// Access to a model's layers and sites, for the library's own code only. All throw Error{usage} for a moved-from model.
#include "lora/model.h"
#include "nn/site.h"

namespace lora {

Parts& parts_of(Model& model);
const Parts& parts_of(const Model& model);
std::shared_ptr<Parts> shared_parts_of(Model& model);

}  // namespace lora
