#pragma once
// The hash by which A1111 names a LoRA.
#include <filesystem>
#include <map>
#include <string>

namespace lora {

// The SHA-256 of a safetensors file's data, or of the whole of another file. Throws as hash_file() does.
std::string a1111_hash(const std::filesystem::path& file);
// The same as the metadata states it; "" where it states none.
std::string stated_hash(const std::map<std::string, std::string>& metadata);

}  // namespace lora
