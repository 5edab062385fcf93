#pragma once
// Computes the digest of bytes that come in pieces.
#include <cstddef>
#include <string>

struct evp_md_ctx_st;

namespace lora {

class Digest {
 public:
  ~Digest();
  Digest(const Digest&) = delete;
  Digest& operator=(const Digest&) = delete;
  void add(const void* data, size_t size);
  // The digest of all bytes that were added, in lower case. Then starts again.
  std::string digits();

 protected:
  explicit Digest(const char* algorithm);  // OpenSSL's name of it

 private:
  const char* algorithm_;
  evp_md_ctx_st* context_;

  void begin();
};

struct Sha256 : Digest {
  static constexpr size_t kDigits = 64;
  Sha256() : Digest("SHA256") {}
};

struct Sha1 : Digest {
  static constexpr size_t kDigits = 40;
  Sha1() : Digest("SHA1") {}
};

}  // namespace lora
