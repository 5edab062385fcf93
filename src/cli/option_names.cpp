#include "option_names.h"

#include <cctype>
#include <utility>

namespace lora::cli {

namespace {

// A row that begins with a row before it never applies, so longer ones come first.
constexpr std::pair<std::string_view, std::string_view> kRows[] = {
    {"from denoising_start to denoising_end", "before or behind --refiner-start"},
    {"denoising_start", "--refiner-start"},
    {"denoising_end", "--refiner-start"},
    {"num_inference_steps or strength", "--steps or --strength"},
    {"num_inference_steps", "--steps"},
    {"num_images_per_prompt", "--count"},
    {"enable_vae_tiling", "--vae-tiling on"},
    {"guidance_scale", "--cfg"},
    {"guidance_rescale", "--guidance-rescale"},
    {"eta is", "--eta is"},
    {"take eta", "take --eta"},
    {"negative_prompt", "--negative"},
    {"prompt_2", "--prompt-2"},
    {"prompt_3", "--prompt-3"},
    {"an image and a mask_image", "--image and --mask"},
    {"mask_image needs an image", "--mask needs --image"},
    {"needs a mask_image", "needs --mask"},
    {"padding_mask_crop", "--only-masked"},
    {"blur_factor", "--mask-blur"},
    {"invert_mask", "--mask-invert"},
    {"apply_overlay", "--keep-unmasked"},
    {"Give one as vae", "Give one as --vae"},
    {"vae is", "--vae is"},
    {"Give one as text_encoders", "Give one as --text-encoder"},
    {"text_encoders has", "--text-encoder has"},
    {"Unload it with unload_textual_inversion first, or give another token", "Give another token after a colon"},
    {"load_textual_inversion added the same word with other vectors; unload it first",
     "--embedding gives the same word other vectors. Give another token after a colon"},
    {"load_textual_inversion() loads it", "generate --embedding loads it"},
    {"Give another word", "Give another token after a colon"},
    {"mask_image", "--mask"},
    {"strength needs an image to start from", "--strength needs --image"},
    {"strength is", "--strength is"},
    {"take strength", "take --strength"},
    {"take image", "take --image"},
    {"clip_skip", "--clip-skip"},
    {"prediction_type", "--prediction-type"},
    {"scheduler is", "--scheduler is"},
    {"variant is", "--variant is"},
    {"Leave variant out", "Leave --variant out"},
    {"as `variant`", "as --variant"},
    {"--allow-partial, or PartialLora::allow", "--allow-partial"},
    {"the size is", "--size is"},
    {"dtype is", "--dtype is"},
    {"device is", "--device is"},
    {"weight_name chooses another of", "name a file itself to choose another of"},
    {"force_download", "--force"},
    {"HF_HUB_OFFLINE or local_files_only", "HF_HUB_OFFLINE"},
    {"HF_HUB_CACHE or cache_dir", "HF_HUB_CACHE or --cache-dir"},
    {"fuse_lora: ", ""},
    {"give its name as scheduler", "use --scheduler"},
};

bool is_word(char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '_'; }
// Also a part of a path or of a key.
bool joins(char c) { return is_word(c) || c == '/' || c == '-' || c == '\\' || static_cast<unsigned char>(c) >= 0x80; }

// Whether a row stands at a place of the text as words of their own, not inside a name, a path or a key.
bool stands(std::string_view text, size_t at, std::string_view words) {
  if (!text.substr(at).starts_with(words)) return false;
  if (at > 0 && (joins(text[at - 1]) || text[at - 1] == '.' || text[at - 1] == '"')) return false;
  const auto rest = text.substr(at + words.size());
  if (rest.empty() || !is_word(words.back())) return true;
  return !joins(rest[0]) && rest[0] != '"' && !(rest[0] == '.' && rest.size() > 1 && is_word(rest[1]));
}

}  // namespace

std::string in_option_names(std::string_view message) {
  std::string text;
  for (size_t at = 0; at < message.size();) {
    const auto* row = std::begin(kRows);
    while (row != std::end(kRows) && !stands(message, at, row->first)) ++row;
    const bool found = row != std::end(kRows);
    text += found ? row->second : message.substr(at, 1);
    at += found ? row->first.size() : 1;
  }
  return text;
}

}  // namespace lora::cli
