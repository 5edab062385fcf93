#pragma once
// The base models that a LoRA can be made for.
#include <string>
#include <string_view>
#include <vector>

namespace lora {

// The models from flux2 on are known by name only: their files are told apart, but not loaded or renamed.
enum class BaseModel {
  unknown,
  sd1,
  sd2,
  sdxl,
  sdxl_refiner,
  sd3,
  flux,
  amused,
  flux2,
  flux2_klein,
  chroma,
  qwen_image,
  z_image,
  lumina2,
  wan,
  hunyuan_video,
  hunyuan_video15,
  hunyuan_image,
  ltx_video,
  ltx2,
  hidream,
  auraflow,
  pixart,
  sana,
  cogview4,
  cogview3,
  cogvideox,
  anima,
  mochi,
  hunyuan_dit,
  lumina_next,
  kandinsky5,
  ideogram4,
  krea2,
  kolors,
  animatediff,
};

// "SD 1.x", "SD 2.x", "SDXL", "SDXL refiner", "SD 3", "Flux", "aMUSEd", "Qwen-Image", …; "" for unknown.
std::string_view to_string(BaseModel model);

// The short names of all of them, as `--base` takes them: "sd1", "sdxl", "qwen-image", …
std::vector<std::string> base_model_names();
// The model of a short name. Throws Error{usage} with all names for any other text.
BaseModel parse_base_model(const std::string& name);

}  // namespace lora
