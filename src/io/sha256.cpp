#include "io/sha256.h"

#include <fmt/ranges.h>
#include <openssl/evp.h>

#include "core/check.h"

namespace lora {

Sha256::Sha256() : context_(EVP_MD_CTX_new()) {
  check(context_ && EVP_DigestInit_ex(context_, EVP_sha256(), nullptr) == 1, ErrorKind::io,
        "SHA-256 is not to be had from this system's OpenSSL");
}

Sha256::~Sha256() { EVP_MD_CTX_free(context_); }

void Sha256::add(const void* data, size_t size) { EVP_DigestUpdate(context_, data, size); }

std::string Sha256::digits() {
  unsigned char bytes[EVP_MAX_MD_SIZE];
  unsigned size = 0;
  EVP_DigestFinal_ex(context_, bytes, &size);
  return fmt::format("{:02x}", fmt::join(bytes, bytes + size, ""));
}

}  // namespace lora
