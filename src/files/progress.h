#pragma once
#include "core/edge.h"
#include "lora/files.h"

namespace lora {

// The same function, so that what it throws leaves the library as it is.
inline ToolProgress as_callers(const ToolProgress& progress) {
  if (!progress) return {};
  return [&progress](int done, int total) { callers([&] { progress(done, total); }); };
}

}  // namespace lora
