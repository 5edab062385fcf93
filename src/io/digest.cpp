#include "io/digest.h"

#include <fmt/ranges.h>
#include <openssl/evp.h>

#include "core/check.h"

namespace lora {

Digest::Digest(const char* algorithm) : algorithm_(algorithm), context_(EVP_MD_CTX_new()) { begin(); }

Digest::~Digest() { EVP_MD_CTX_free(context_); }

void Digest::begin() {
  auto* method = EVP_get_digestbyname(algorithm_);
  check(context_ && method && EVP_DigestInit_ex(context_, method, nullptr) == 1, ErrorKind::io,
        "OpenSSL does not provide {}", algorithm_);
}

void Digest::add(const void* data, size_t size) { EVP_DigestUpdate(context_, data, size); }

std::string Digest::digits() {
  unsigned char bytes[EVP_MAX_MD_SIZE];
  unsigned size = 0;
  EVP_DigestFinal_ex(context_, bytes, &size);
  begin();
  return fmt::format("{:02x}", fmt::join(bytes, bytes + size, ""));
}

}  // namespace lora
