#pragma once
// Rows of prefixes and suffixes, used in both directions, and the readers of each dialect.
#include <span>

#include "dialects/dialect.h"

namespace lora {

struct Row {
  std::string_view theirs, ours;
};

// Takes the first row's prefix that `key` starts with off the key; our name for it, or nullopt.
std::optional<std::string> take_prefix(std::string_view& key, std::span<const Row> rows);
std::optional<std::string> take_suffix(std::string_view& key, std::span<const Row> rows);

// How kohya's sd-scripts, LyCORIS, OneTrainer and A1111 end their keys; and their spelling of one of ours, "" for none.
std::optional<std::string> take_kohya_suffix(std::string_view& key);
std::string_view kohya_suffix(std::string_view ours);
// How PEFT does, an adapter's name inside or not: "….lora_A.weight", "….lora_A.default.weight". Our name, or nullopt.
std::optional<std::string> take_peft_suffix(std::string_view& key);
// The text encoders of ComfyUI and OMI: "clip_l" is text_encoder, …
std::span<const Row> clip_names();

std::optional<CanonicalKey> read_kohya(std::string_view key);
std::optional<CanonicalKey> read_onetrainer(std::string_view key);
std::optional<CanonicalKey> read_lycoris(std::string_view key);
std::optional<CanonicalKey> read_peft(std::string_view key);
std::optional<CanonicalKey> read_comfy(std::string_view key);
std::optional<CanonicalKey> read_omi(std::string_view key);
std::optional<CanonicalKey> read_diffusers(std::string_view key);
std::optional<CanonicalKey> read_diffusers_layers(std::string_view key);
std::optional<CanonicalKey> read_attention_processors(std::string_view key);
std::optional<CanonicalKey> read_bare(std::string_view key);
std::optional<CanonicalKey> read_bfl(std::string_view key);
std::optional<CanonicalKey> read_xlabs(std::string_view key);
std::optional<CanonicalKey> read_control_lora(std::string_view key);

}  // namespace lora
