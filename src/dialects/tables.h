#pragma once
// Rows of prefixes and suffixes, used in both directions, and the readers of each dialect.
#include <span>

#include "dialects/dialect.h"
#include "kinds/kinds.h"
#include "kinds/lora.h"

namespace lora {

struct Row {
  std::string_view theirs, ours;
};

// Takes the first row's prefix that `key` starts with off the key; our name for it, or nullopt.
std::optional<std::string_view> take_prefix(std::string_view& key, std::span<const Row> rows);
std::optional<std::string_view> take_suffix(std::string_view& key, std::span<const Row> rows);

// The canonical suffix that a key ends with in the spelling of PEFT, or else of kohya's family; "" for none.
std::string_view take_known_end(std::string_view& key);
// kWholeBias where the key ends as a bias of the model itself, "….conv_in.bias", which PEFT's `bias="all"` trains; ""
// otherwise.
std::string_view take_whole_bias(std::string_view& key);

std::optional<LayerKey> read_kohya(std::string_view key);
std::optional<LayerKey> read_onetrainer(std::string_view key);
std::optional<LayerKey> read_lycoris(std::string_view key);
std::optional<LayerKey> read_peft(std::string_view key);
std::optional<LayerKey> read_comfy(std::string_view key);
std::optional<LayerKey> read_omi(std::string_view key);
std::optional<LayerKey> read_diffusers(std::string_view key);
std::optional<LayerKey> read_diffusers_layers(std::string_view key);
std::optional<LayerKey> read_attention_processors(std::string_view key);
std::optional<LayerKey> read_bare(std::string_view key);
std::optional<LayerKey> read_bfl(std::string_view key);
std::optional<LayerKey> read_xlabs(std::string_view key);
std::optional<LayerKey> read_control_lora(std::string_view key);

}  // namespace lora
