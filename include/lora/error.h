#pragma once
// The one exception type of the library. Callers branch on the kind; people read the message.
#include <stdexcept>
#include <string>

namespace lora {

enum class ErrorKind {
  not_found,      // a file, folder, adapter or component that is not there
  bad_file,       // truncated, malformed or hostile content
  bad_key,        // a tensor name that is not understood, or one half of a pair
  bad_shape,      // sizes that do not fit the model
  unsupported,    // understood, but not something this library does
  conflict,       // contradicts the present state, such as a name already in use
  usage,          // an argument out of range or of the wrong kind
  io,             // the operating system refused: permission, disk full
  network,        // a server that cannot be reached, breaks off or cannot answer now
  forbidden,      // a server that wants a token, or another one
  cancelled,      // a callback asked to stop
  out_of_memory,  // memory, of the machine or of a GPU, that is not there
};

// The kind's name as written above: "not_found", "bad_file", …
const char* to_string(ErrorKind kind);

class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  ErrorKind kind() const { return kind_; }

 private:
  ErrorKind kind_;
};

}  // namespace lora
