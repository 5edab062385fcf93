#pragma once
// The base models that a LoRA can be made for.
#include <string_view>

namespace lora {

enum class BaseModel { unknown, sd1, sd2, sdxl, sdxl_refiner, sd3, flux, amused };

// "SD 1.x", "SD 2.x", "SDXL", "SDXL refiner", "SD 3", "Flux", "aMUSEd"; "" for unknown.
std::string_view to_string(BaseModel model);

}  // namespace lora
