#pragma once
// EXIF: what a JPEG or WebP file says beside its pixels. A PNG file can have it too.
#include <map>
#include <string>
#include <string_view>

namespace lora {

struct Exif {
  int orientation = 1;  // 1 to 8: how the picture must be turned
  std::map<std::string, std::string> text;
};

// The entries that are understood, in UTF-8:
// - UserComment, which has the text "parameters" of A1111
// - ImageDescription with a JSON object of texts, as write_exif() makes it
// - "prompt:…" and "workflow:…" in Make, Model or ImageDescription, as ComfyUI writes them
// `bytes` may begin with "Exif" and two zeros. Damaged bytes have no entries.
Exif read_exif(std::string_view bytes);

// EXIF with these texts, beginning with "Exif" and two zeros. "parameters" is the UserComment, in UTF-16 as A1111 and
// piexif write it. All others are a JSON object in the ImageDescription. Empty for no texts. Throws Error{usage} for
// texts that are longer than a JPEG file can hold.
std::string write_exif(const std::map<std::string, std::string>& text);

}  // namespace lora
