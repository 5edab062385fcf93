#include "core/edge.h"

#include <filesystem>
#include <new>
#include <string>
#include <string_view>
#include <system_error>

namespace lora {

namespace {

// libtorch has one exception type for most errors. Only the message says that memory is missing.
bool is_about_memory(std::string_view what) {
  for (std::string_view sign : {"can't allocate memory", "not enough memory", "out of memory"})
    if (what.find(sign) != what.npos) return true;
  return false;
}

}  // namespace

bool is_out_of_memory(const std::exception& error) {
  if (auto* ours = dynamic_cast<const Error*>(&error)) return ours->kind() == ErrorKind::out_of_memory;
  return dynamic_cast<const std::bad_alloc*>(&error) || is_about_memory(error.what());
}

std::string message_of(const std::exception& error) {
  std::string_view what = error.what();
  return std::string(what.substr(0, what.find('\n')));
}

void rethrow_named(const std::string& label) {
  try {
    throw;
  } catch (const CallersException&) {
    throw;
  } catch (const std::exception& e) {
    if (is_out_of_memory(e)) throw;
    auto* ours = dynamic_cast<const Error*>(&e);
    auto* system = dynamic_cast<const std::system_error*>(&e);
    auto kind = ours ? ours->kind() : system ? ErrorKind::io : ErrorKind::bad_file;
    auto message = message_of(e);
    throw Error(kind, message.starts_with(label) ? message : label + ": " + message);
  }
}

void rethrow_as_error() {
  try {
    throw;
  } catch (const Error&) {
    throw;
  } catch (const CallersException& e) {
    std::rethrow_exception(e.thrown);
  } catch (const std::bad_alloc&) {
    throw Error(ErrorKind::out_of_memory, "there is not enough memory for this call; nothing was changed");
  } catch (const std::system_error& e) {  // also std::filesystem::filesystem_error
    throw Error(ErrorKind::io, e.what());
  } catch (const std::exception& e) {
    throw Error(is_out_of_memory(e) ? ErrorKind::out_of_memory : ErrorKind::usage, message_of(e));
  }
}

}  // namespace lora
