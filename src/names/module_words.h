#pragma once
// Module names in other spellings.
#include <optional>
#include <string>
#include <string_view>

namespace lora {

// "down_blocks_0_attentions_1_proj_in" to "down_blocks.0.attentions.1.proj_in", in diffusers' names and in native ones;
// nullopt where a part is no name that a known model has. The reverse is replacing '.' by '_'.
std::optional<std::string> unflatten(std::string_view flat);

// A module path as diffusers has it today: `text_model.` before a text encoder's layers, `to_out.0` for `to_out`, no
// `processor`, and whole names of transformers' lists of blocks.
std::string modern_path(std::string path, bool text_encoder);

// Whether a path is of a CLIP text encoder without the level `text_model`.
bool is_bare_clip_path(std::string_view path);

}  // namespace lora
