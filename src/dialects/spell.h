#pragma once
// From canonical tensors to a file that another program reads: the rows of the dialects the other way round.
#include <functional>
#include <string>
#include <vector>

#include "dialects/fused.h"
#include "lora/state_dict.h"

namespace lora {

// One layer of canonical tensors.
struct NamedModule {
  std::string component, path;
  Module tensors;  // by canonical suffix
};

// In the order of their first tensors. Throws Error{bad_key} for a key without a canonical suffix.
std::vector<NamedModule> modules_of(const StateDict& canonical);

// One tensor that the file is to hold. make() reads, joins and converts when it is asked, so that a file is written
// layer by layer.
struct Spelled {
  std::string component;  // of the layer: peft has a file for each
  std::string key;
  Dtype dtype;
  std::vector<int64_t> shape;
  std::function<Tensor()> make;
};

// `canonical` as to_canonical() gives it, alphas among the tensors; `family` as architecture_of names it. Targets:
//   kohya      lora_unet_<native name, of SD 1.x and 2.x diffusers'>.lora_down.weight, … .alpha
//   comfy      diffusion_model.<native name>.lora_down.weight, text_encoders.clip_l.transformer.….alpha
//   diffusers  unet.<path>.lora_A.weight
//   peft       base_model.model.<path>.lora_A.weight
// In the last two strengths have no tensor: `alpha` and `scale` are left out, for whoever writes the metadata. Values
// are the file's own bits, but for what the target holds in another form (a bias times its scale, PEFT's IA3 as a
// deviation from 1). Throws Error{unsupported} with the layers for what the target cannot say, Error{usage} for another
// target.
std::vector<Spelled> spell(const StateDict& canonical, const std::string& target, const std::string& family);

}  // namespace lora
