#pragma once
// SHA-256 of bytes that come piece by piece.
#include <cstddef>
#include <string>

struct evp_md_ctx_st;

namespace lora {

class Sha256 {
 public:
  static constexpr size_t kDigits = 64;

  Sha256();
  ~Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;
  void add(const void* data, size_t size);
  std::string digits();  // of all that was added, in lower case; nothing can be added after that

 private:
  evp_md_ctx_st* context_;
};

}  // namespace lora
