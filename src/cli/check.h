#pragma once
// Errors of the command.
#include <fmt/format.h>

#include "lora/error.h"

namespace lora::cli {

// Throws Error{kind} with the message where `ok` is false.
template <class... Args>
void check(bool ok, ErrorKind kind, fmt::format_string<Args...> message, Args&&... args) {
  if (!ok) throw Error(kind, fmt::format(message, std::forward<Args>(args)...));
}

// "1 layer", "3 layers".
inline std::string counted(size_t n, const char* noun) { return fmt::format("{} {}{}", n, noun, n == 1 ? "" : "s"); }

}  // namespace lora::cli
