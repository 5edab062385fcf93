#pragma once
// A LoRA file as layers, whichever tool wrote it.
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "lora/base_model.h"
#include "lora/lora_options.h"

namespace lora {

// The adapter of one layer: one form for every tool's spelling.
struct LoraLayer {
  std::string component;  // "unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3"
  std::string path;       // of the module, as in diffusers: "mid_block.attentions.0.proj_in"
  std::string kind;       // for people: "LoRA", "DoRA", "LoHa", "LoKr", "OFT", …; told by the tensors
  // By suffix, as docs/formats.md lists them: "lora_A.weight", "hada_w1_a", … Views of the file's own tensors where
  // they can be.
  LayerTensors tensors;
  // What says how strongly the layer acts. None: alpha is the rank, and scale is alpha / rank.
  std::optional<double> alpha, scale;
  // What the file's config says of the layer beyond its strength, where that is not the standard: PEFT's
  // "use_cayley_neumann", "num_cayley_neumann_terms", "eps" (OFT) and "feedforward" (IA3); "inverse_convolutions"
  // (OneTrainer's OFT).
  std::map<std::string, double> settings;
  std::map<std::string, std::string, std::less<>>
      keys;  // the file's own key of each tensor, and of "alpha" and "scale"

  std::string name() const { return component + "." + path; }
};

struct LoraFile {
  std::vector<LoraLayer> layers;  // in the order of the file; a component and path at most once
  BaseModel base_model = BaseModel::unknown;
  std::string known_by;         // what tells the base model; for unknown, which models it may be; "" where nothing does
  int64_t cross_attention = 0;  // the width of the text embeddings that a UNet's LoRA is for; 0: not told
  std::string dialect;          // "kohya", "peft", …; several are joined by " + "
  std::string source;           // the file, or "state dict": for messages
  std::filesystem::path path;   // what was read: a file, or a folder of PEFT's; empty for tensors in memory
  std::map<std::string, std::string> metadata;
  std::vector<BundledEmbedding> embeddings;
  std::vector<LoadReport::Unmatched> unmatched;  // keys that are not understood, with the reason
  // Those of `unmatched` that are parts of an adapter. Without them, the layers are not the whole effect of the file.
  std::vector<LoadReport::Unmatched> left_out;
  std::vector<std::string> notes;  // what was done that the numbers do not say
};

// Reads a LoRA of any spelling, without a model. Nothing of a safetensors file's tensors is read before it is used.
// Throws Error{not_found, bad_file, bad_key, bad_shape, unsupported}; for a repository as hf_hub_download() does.
// Example:
//   auto file = lora::read_lora("models/loras/ink.safetensors");
//   for (const auto& layer : file.layers) layer.name();
//   pipe.load_lora_weights(file);
LoraFile read_lora(const LoraSource& source, const ReadLoraOptions& options = {});

// The same as tensors under canonical names, the form of diffusers' lora_state_dict.
LoraStateDict as_state_dict(const LoraFile& file);

}  // namespace lora
