#include "files/hashes.h"

#include <algorithm>
#include <future>

#include "core/edge.h"
#include "io/digest.h"
#include "io/safetensors.h"
#include "lora/files.h"

namespace lora {

namespace {

constexpr auto kMatches = "matches";
// The hash itself says no more: a trainer may have hashed something else, or a program may have rewritten the file.
constexpr auto kDiffers = "differs: the tensors are not those that were hashed";
constexpr auto kOfNothing = "differs: it is the hash of nothing, which says nothing of the tensors";
constexpr auto kNoHash = "cannot be checked: it does not have the form of a SHA-256 hash";
// The SHA-256 of no bytes: some trainers hashed an empty file.
constexpr std::string_view kNothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

std::string sha256(std::string_view bytes) {
  Sha256 hash;
  hash.add(bytes.data(), bytes.size());
  return hash.digits();
}

// The digest that OneTrainer writes: of the tensors in the order of their names.
std::string sha256_by_name(std::string_view data, std::vector<SafetensorsEntry> entries) {
  std::sort(entries.begin(), entries.end(), [](auto& a, auto& b) { return a.name < b.name; });
  Sha256 hash;
  for (const auto& entry : entries) hash.add(data.data() + entry.begin, entry.end - entry.begin);
  return hash.digits();
}

std::string lower(std::string text) {
  for (auto& c : text) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return text;
}

bool is_sha256(const std::string& hash) {
  return hash.size() == Sha256::kDigits && hash.find_first_not_of("0123456789abcdef") == hash.npos;
}

// What is to be said of a hash that the metadata states.
const char* compared(const std::string& hash, bool same) {
  if (same) return kMatches;
  if (!is_sha256(hash)) return kNoHash;
  return hash == kNothing ? kOfNothing : kDiffers;
}

std::map<std::string, std::string> claims(const SafetensorsHeader& header, std::string_view data,
                                          const std::string& data_hash) {
  std::map<std::string, std::string> result;
  auto told = [&](const char* key) {
    auto it = header.metadata.find(key);
    return it == header.metadata.end() ? std::string() : lower(it->second);
  };
  if (auto hash = told("sshs_model_hash"); hash.starts_with("0x"))
    // LyCORIS hashes the tensors in the order that they had when it trained.
    result["sshs_model_hash"] =
        hash.substr(2) == data_hash || hash.substr(2) == sha256_by_name(data, header.entries)
            ? kMatches
            : "cannot be checked: LyCORIS hashes the tensors in an order that the file does not keep";
  else if (!hash.empty())
    result["sshs_model_hash"] = compared(hash, hash == data_hash);
  if (told("sshs_legacy_hash") != "")
    result["sshs_legacy_hash"] = "cannot be checked: it was computed before the metadata was complete";
  if (auto hash = told("modelspec.hash_sha256"); !hash.empty()) {
    auto digits = hash.starts_with("0x") ? hash.substr(2) : hash;
    result["modelspec.hash_sha256"] =
        compared(digits, digits == data_hash || digits == sha256_by_name(data, header.entries));
  }
  return result;
}

// Nothing for a pickle.
std::optional<SafetensorsHeader> header_of(const MappedFile& file) {
  try {
    return parse_safetensors_header(file.bytes(), file.path().string());
  } catch (const Error&) {
    return std::nullopt;
  }
}

FileHashes hash(const std::filesystem::path& file) {
  auto mapped = MappedFile::open(file);
  auto bytes = mapped->bytes();
  auto whole = std::async(std::launch::async, [&] { return sha256(bytes); });
  FileHashes hashes;
  if (auto header = header_of(*mapped)) {
    auto data = bytes.substr(header->data_start);
    hashes.data = sha256(data);
    hashes.claims = claims(*header, data, hashes.data);
    hashes.a1111 = stated_hash(header->metadata);
  }
  hashes.file = whole.get();
  if (hashes.a1111.empty()) hashes.a1111 = hashes.data.empty() ? hashes.file : hashes.data;
  return hashes;
}

}  // namespace

bool FileHashes::changed() const {
  return std::any_of(claims.begin(), claims.end(), [](auto& claim) { return claim.second == kDiffers; });
}

std::string a1111_hash(const std::filesystem::path& file) {
  auto mapped = MappedFile::open(file);
  auto header = header_of(*mapped);
  return sha256(mapped->bytes().substr(header ? header->data_start : 0));
}

std::string stated_hash(const std::map<std::string, std::string>& metadata) {
  auto stated = metadata.find("sshs_model_hash");
  auto hash = stated == metadata.end() ? std::string() : lower(stated->second);
  return is_sha256(hash) && hash != kNothing ? hash : "";
}

FileHashes hash_file(const std::filesystem::path& file) {
  return edge([&] { return hash(file); });
}

}  // namespace lora
