#include "lora/error.h"

#include "lora/text.h"

namespace lora {

Error::Error(ErrorKind kind, const std::string& message) : std::runtime_error(printable(message)), kind_(kind) {}

const char* to_string(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::not_found: return "not_found";
    case ErrorKind::bad_file: return "bad_file";
    case ErrorKind::bad_key: return "bad_key";
    case ErrorKind::bad_shape: return "bad_shape";
    case ErrorKind::unsupported: return "unsupported";
    case ErrorKind::conflict: return "conflict";
    case ErrorKind::usage: return "usage";
    case ErrorKind::io: return "io";
    case ErrorKind::network: return "network";
    case ErrorKind::forbidden: return "forbidden";
    case ErrorKind::cancelled: return "cancelled";
    case ErrorKind::out_of_memory: return "out_of_memory";
  }
  return "unknown";
}

}  // namespace lora
