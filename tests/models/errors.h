#pragma once
// What a call is answered with.
#include <string>

#include "lora/error.h"

namespace lora {

// The error that `run` throws, as "kind: message"; "" where it throws none.
template <class Run>
std::string error_of(Run&& run) {
  try {
    run();
  } catch (const Error& error) {
    return std::string(to_string(error.kind())) + ": " + error.what();
  }
  return "";
}

}  // namespace lora
