#pragma once
// Rows of prefixes and suffixes, and the readers of each dialect.
#include <span>

#include "dialects/dialect.h"

namespace lora {

struct Row {
  std::string_view theirs, ours;
};

// Takes the first row's prefix that `key` starts with off the key; our name for it, or nullopt.
std::optional<std::string> take_prefix(std::string_view& key, std::span<const Row> rows);
std::optional<std::string> take_suffix(std::string_view& key, std::span<const Row> rows);

std::optional<CanonicalKey> read_kohya(std::string_view key);
std::optional<CanonicalKey> read_peft(std::string_view key);
std::optional<CanonicalKey> read_diffusers(std::string_view key);
std::optional<CanonicalKey> read_diffusers_layers(std::string_view key);
std::optional<CanonicalKey> read_attention_processors(std::string_view key);

}  // namespace lora
