#pragma once
// The environment variables of huggingface_hub, and the folder of caches. Every call reads them again.
#include <filesystem>
#include <string>

#include "lora/hub.h"

namespace lora {

// The Hub's address, without a slash at its end. Throws Error{usage} if it does not begin with http:// or https://.
std::string hub_endpoint();
// The folder of all caches: $XDG_CACHE_HOME, or ~/.cache.
std::filesystem::path cache_home();
// The absolute path of the cache: HubOptions::cache_dir, or the environment's if that is empty.
std::filesystem::path hub_cache(const std::filesystem::path& cache_dir);
bool hub_offline();
bool hub_without_symlinks();
// Seconds. Throw Error{usage} if the variable is not a number.
int hub_etag_timeout();
int hub_download_timeout();
// The token to send, or "". Throws Error{forbidden} if the call wants the stored login and there is none, Error{usage}
// if the text cannot be a token.
std::string hub_token(const HubToken& token);
// A file or a folder of certificates, or "". Throws Error{not_found} if it does not exist.
std::string hub_certificates();

}  // namespace lora
