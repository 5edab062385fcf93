#pragma once
// The hashes by which tools know a LoRA file.
#include <filesystem>
#include <map>
#include <string>

namespace lora {

struct FileHashes {
  std::string file;  // SHA-256 of all of it
  std::string data;  // of a safetensors file's data alone, which its metadata does not change; "" for other files
  // What the metadata says of the data, and whether it is so: "sshs_model_hash" to "matches", "differs: …" or why it
  // cannot be checked.
  std::map<std::string, std::string> claims;

  std::string auto_v2() const { return file.substr(0, 10); }  // A1111's names for their beginnings
  std::string auto_v3() const { return data.substr(0, 12); }
  bool changed() const;  // some claim differs
};

// Throws Error{not_found, bad_file, io}.
FileHashes hash_file(const std::filesystem::path& file);

}  // namespace lora
