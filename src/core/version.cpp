#include "lora/version.h"

namespace lora {

const char* version() noexcept { return LORA_VERSION; }

}  // namespace lora
