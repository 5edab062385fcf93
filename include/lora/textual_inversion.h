#pragma once
// diffusers' loader of textual inversion: words of prompts with vectors of their own.
#include <optional>
#include <string>
#include <vector>

#include "lora/lora_base.h"

namespace lora {

// The arguments of diffusers' load_textual_inversion, in its order. `tokenizer` is always that of the text encoder.
struct LoadTextualInversionOptions {
  // The word. Empty: what names it in the file of diffusers, the only key; or else the file's name without its ending,
  // as in A1111. For tensors in memory in A1111's form, it is the name in them.
  std::string token;
  // The component for which the vectors are, where the file does not name text encoders. Empty: "text_encoder".
  std::string text_encoder;
  HubOptions hub;         // for repositories
  std::string subfolder;  // the folder inside the source
  // The file in the folder. Empty: `learned_embeds.…`, or else the first file that may be one, by name.
  std::string weight_name;
  std::optional<bool> use_safetensors;  // as in ReadLoraOptions
};

// Threads: as LoraBaseMixin. A call of the pipeline that has begun keeps the words that it began with.
class TextualInversionLoaderMixin : public virtual LoraBaseMixin {
 public:
  // Adds a word that prompts may have. The files of diffusers, A1111, kohya's scripts and ComfyUI are read, the last
  // also with vectors for several text encoders (clip_l, clip_g, t5xxl). A word of several vectors stands for all of
  // them. `word_1` is its second vector alone, and so on. The report has the word in `embeddings`, and no adapter.
  //
  // Beyond diffusers, Stable Diffusion 3 and aMUSEd take words too. LoRA calls do not change the words:
  // unload_lora_weights() and disable_lora() leave them. save_pretrained() does not write them.
  //
  // Throws Error{not_found, bad_file} for the file, for a repository as hf_hub_download() does. Throws Error{bad_key}
  // for a file of another form, Error{bad_shape} for one of another model, Error{conflict} for a word that is loaded
  // already or that a tokenizer has as a token. Throws Error{usage} for a word that cannot be one, and for a component
  // that reads no text.
  LoadReport load_textual_inversion(const LoraSource& source, const LoadTextualInversionOptions& options = {});
  // Forgets words; all that load_textual_inversion() added, if none is named. Throws Error{not_found} for a word that
  // is not loaded, or that came with an adapter, and forgets nothing then.
  void unload_textual_inversion(const OneOrMany<std::string>& tokens = {});
};

}  // namespace lora
