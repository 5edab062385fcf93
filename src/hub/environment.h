#pragma once
// What huggingface_hub's environment variables say, read at every call.
#include <filesystem>
#include <string>

#include "lora/hub.h"

namespace lora {

std::string hub_endpoint();                                   // without a slash at its end
std::filesystem::path hub_cache(const std::filesystem::path&  // HubOptions::cache_dir
                                    cache_dir);               // absolute
bool hub_offline();
bool hub_without_symlinks();
// Seconds.
int hub_etag_timeout();
int hub_download_timeout();
// "" for none. Throws Error{forbidden} where one is asked for and there is none, Error{usage} for what cannot be a
// token.
std::string hub_token(const HubToken& token);
// A file of certificates or a folder of them, or "".
std::string hub_certificates();

}  // namespace lora
