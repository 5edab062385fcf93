#pragma once
// Helpers for the tests of io: make and compare files, expect errors.
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "io/mapped_file.h"
#include "lora/error.h"
#include "lora/state_dict.h"
#include "support/folder.h"

namespace lora {

inline std::filesystem::path data(const std::string& name) {
  return std::filesystem::path(LORA_SOURCE_DIR) / "tests/data/io" / name;
}

inline std::string read_bytes(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  EXPECT_TRUE(in) << file;
  return {std::istreambuf_iterator<char>(in), {}};
}

// A file in memory, for tests that write thousands.
class MemoryFile {
 public:
  MemoryFile() : fd_(::memfd_create("test", MFD_CLOEXEC)) {}
  ~MemoryFile() { ::close(fd_); }
  std::filesystem::path write(std::string_view bytes) const {
    EXPECT_EQ(::ftruncate(fd_, 0), 0);
    EXPECT_EQ(::pwrite(fd_, bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
    return "/proc/self/fd/" + std::to_string(fd_);
  }

 private:
  int fd_;
};

// Runs `call` and says whether it threw an Error of that kind with `part` in its message.
template <class Call>
testing::AssertionResult fails(ErrorKind kind, const std::string& part, Call&& call) {
  try {
    call();
  } catch (const Error& error) {
    if (error.kind() == kind && std::string(error.what()).find(part) != std::string::npos)
      return testing::AssertionSuccess();
    return testing::AssertionFailure() << "got " << to_string(error.kind()) << ": " << error.what();
  } catch (const std::exception& error) {
    return testing::AssertionFailure() << "got another exception: " << error.what();
  }
  return testing::AssertionFailure() << "nothing was thrown";
}

// Same dtype, same sizes, same bits.
inline testing::AssertionResult same(const Tensor& a, const Tensor& b) {
  if (a.scalar_type() != b.scalar_type() || a.sizes() != b.sizes())
    return testing::AssertionFailure() << a.toString() << a.sizes() << " and " << b.toString() << b.sizes();
  auto x = a.contiguous(), y = b.contiguous();
  bool equal = x.nbytes() == 0 || std::memcmp(x.const_data_ptr(), y.const_data_ptr(), x.nbytes()) == 0;
  return equal ? testing::AssertionSuccess() : testing::AssertionFailure() << "the values differ";
}

inline void expect_same(const StateDict& got, const StateDict& wanted) {
  EXPECT_EQ(got.size(), wanted.size());
  for (const auto& [name, tensor] : wanted) {
    const Tensor* found = got.find(name);
    ASSERT_TRUE(found) << name << " is missing";
    EXPECT_TRUE(same(*found, tensor)) << name;
  }
}

}  // namespace lora
