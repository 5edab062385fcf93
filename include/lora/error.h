#pragma once
// The library's one exception type. Programs look at the kind; people read the message.
#include <stdexcept>
#include <string>

namespace lora {

enum class ErrorKind {
  not_found,      // a file, folder, adapter or component does not exist
  bad_file,       // the content of a file is truncated, malformed or hostile
  bad_key,        // a tensor has an unknown name, or one half of a pair is missing
  bad_shape,      // sizes do not fit the model
  unsupported,    // the library understands the request but does not implement it
  conflict,       // the request contradicts the present state: a name is already in use, …
  usage,          // an argument is out of range or of the wrong kind
  io,             // the operating system refused: no permission, disk full, …
  network,        // a server is unreachable, closed the connection or cannot answer now
  forbidden,      // a server wants a token, or a different one
  cancelled,      // a callback asked to stop
  out_of_memory,  // the machine or a GPU does not have enough memory
};

// The kind's name as written above: "not_found", "bad_file", …
const char* to_string(ErrorKind kind);

class Error : public std::runtime_error {
 public:
  // what() is printable(message), from lora/text.h: one line, in which names from outside cannot do harm.
  Error(ErrorKind kind, const std::string& message);
  ErrorKind kind() const { return kind_; }

 private:
  ErrorKind kind_;
};

}  // namespace lora
