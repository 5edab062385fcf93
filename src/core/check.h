#pragma once
// Checks in one line. A message says where, then what is there, what was wanted and what to do.
#include <fmt/format.h>

#include "lora/error.h"

namespace lora {

template <class... Args>
[[noreturn]] void fail(ErrorKind kind, fmt::format_string<Args...> message, Args&&... args) {
  throw Error(kind, fmt::format(message, std::forward<Args>(args)...));
}

template <class... Args>
void check(bool ok, ErrorKind kind, fmt::format_string<Args...> message, Args&&... args) {
  if (!ok) [[unlikely]]
    fail(kind, message, std::forward<Args>(args)...);
}

}  // namespace lora
