#pragma once
// The edge of the library: whatever goes wrong inside leaves it as an Error.
#include <exception>
#include <string>
#include <utility>

#include "lora/error.h"

namespace lora {

// Throws the exception that is being handled as an Error: missing memory as out_of_memory, the operating system's
// refusals as io, libtorch's as usage. What a caller's own function threw passes as it is.
[[noreturn]] void rethrow_as_error();

// For those who translate an exception themselves: whether it says that memory is missing, and its message without
// libtorch's list of C++ frames.
bool is_out_of_memory(const std::exception& error);
std::string message_of(const std::exception& error);

template <class F>
decltype(auto) edge(F&& f) {
  try {
    return std::forward<F>(f)();
  } catch (...) {
    rethrow_as_error();
  }
}

// Carries what a caller's function threw through the library.
struct CallersException {
  std::exception_ptr thrown;
};

// Calls a function that the library was given, such as a step's callback.
template <class F>
decltype(auto) callers(F&& f) {
  try {
    return std::forward<F>(f)();
  } catch (const CallersException&) {  // of a call inside that function
    throw;
  } catch (...) {
    throw CallersException{std::current_exception()};
  }
}

}  // namespace lora
