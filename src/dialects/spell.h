#pragma once
// From layers to a file that another program reads: the rows of the dialects the other way round.
#include <functional>
#include <string>
#include <vector>

#include "lora/lora_file.h"

namespace lora {

// One tensor that the file is to hold. make() reads, joins and converts when it is asked, so that a file is written
// layer by layer.
struct Spelled {
  std::string component;  // of the layer: peft has a file for each
  std::string key;
  std::string suffix;  // canonical: of a tensor, or "alpha" or "scale"
  Dtype dtype;
  std::vector<int64_t> shape;
  std::function<Tensor()> make;
  // The whole layer as the target has it, with this tensor in it. None for a strength.
  std::function<LoraLayer()> layer;
  size_t number = 0;  // of that layer in the file that is written
};

// The programs that files can be written for.
//   kohya      lora_unet_<native name, of SD 1.x and 2.x diffusers'>.lora_down.weight, … .alpha
//   comfy      diffusion_model.<native name>.lora_down.weight, text_encoders.clip_l.transformer.….alpha
//   diffusers  unet.<path>.lora_A.weight
//   peft       base_model.model.<path>.lora_A.weight
enum class Target { kohya, comfy, diffusers, peft };
const char* to_string(Target target);
// Throws Error{usage} for a name that is not among these, with those that there are.
Target parse_target(const std::string& name);
// diffusers' and PEFT's files hold plain factors under dotted names. Their strengths have no tensors: they are for
// whoever writes the metadata.
inline bool is_dotted(Target target) { return target == Target::diffusers || target == Target::peft; }

// Values are the file's own bits, but for what the target holds in another form (a bias times its scale, PEFT's IA3 as
// a deviation from 1). Throws Error{unsupported} with the layers for what the target cannot say.
std::vector<Spelled> spell(const std::vector<LoraLayer>& layers, Target target, BaseModel base_model);

}  // namespace lora
