#pragma once
// The edge of the library: every exception from inside leaves the library as an Error.
#include <exception>
#include <string>
#include <utility>

#include "lora/error.h"

namespace lora {

// Rethrows the exception that is being handled as an Error: missing memory as out_of_memory, errors of the operating
// system as io, others (libtorch's) as usage. An exception from a caller's own function passes unchanged.
[[noreturn]] void rethrow_as_error();

// Whether the exception says that memory is missing.
bool is_out_of_memory(const std::exception& error);
// The first line of the exception's message. libtorch adds a list of its backends, and one of C++ frames.
std::string message_of(const std::exception& error);

// Rethrows the exception that is being handled as an Error whose message begins with `label`. An exception of a
// caller's own function, and one about missing memory, pass unchanged.
[[noreturn]] void rethrow_named(const std::string& label);

// Calls `f`. Its errors name what they are about: a file, for example.
template <class F>
decltype(auto) named(const std::string& label, F&& f) {
  try {
    return std::forward<F>(f)();
  } catch (...) {
    rethrow_named(label);
  }
}

// Calls `f`. Rethrows its exceptions by rethrow_as_error().
template <class F>
decltype(auto) edge(F&& f) {
  try {
    return std::forward<F>(f)();
  } catch (...) {
    rethrow_as_error();
  }
}

// Carries an exception of a caller's function through the library.
struct CallersException {
  std::exception_ptr thrown;
};

// Calls a function that the caller passed to the library, such as a step's callback.
template <class F>
decltype(auto) callers(F&& f) {
  try {
    return std::forward<F>(f)();
  } catch (const CallersException&) {  // from a call of the library inside that function
    throw;
  } catch (...) {
    throw CallersException{std::current_exception()};
  }
}

}  // namespace lora
