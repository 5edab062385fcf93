#pragma once
// The base models that LoRAs are made for. A base model is one row of a table: all that other code asks about one is
// in its row.
#include <cstdint>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "lora/base_model.h"

namespace lora {

// A component as it was published: what its config says beyond its class's defaults, as far as it shapes a tensor.
struct PublishedConfig {
  std::string_view label;   // "SD 1.5's UNet"
  std::string_view config;  // JSON; "" where no class here runs it, so that only its layers' names are known
};

// A component of a base model's pipeline.
struct ComponentRow {
  std::string_view name;        // "unet", "text_encoder_2"
  std::string_view class_name;  // diffusers' or transformers'
  // How kohya's sd-scripts begin a layer's key, and ComfyUI's name of the model; "" where they have no name for it.
  std::string_view kohya, comfy;
  std::span<const PublishedConfig> published;  // empty for components that hold no LoRA
  // transformers 5 writes this text encoder's layers without the level `text_model`.
  bool drops_text_model = false;
};

// The layouts of names that denoisers had before diffusers.
enum class NativeNames { none, unet, sd3, flux };

// ---- Evidence -------------------------------------------------------------------------------------------------------
//
// A piece is a part of a layer's name, with `_` for each dot: one piece is for the native spelling and for kohya's flat
// one. `^` and `$` are the ends of the name, `#` is a number, `*` is one word. A piece with a dot is for names that
// have their dots.

// The size of a layer's weight, in widths of the model. 0: another number.
struct LayerSize {
  std::string_view piece;
  int rows, columns;
  int64_t inputs = 0;  // the columns as a number, where they are the width of another model's output
};
// A list of blocks, "double_blocks", and how many the model has.
struct BlockList {
  std::string_view name;
  int64_t count;
};

// What a file's layers say for a model, and against it.
struct Evidence {
  // For it: names that only its layers have, and those of its family; …
  std::span<const std::string_view> marks = {};
  // … names that other models have too; …
  std::span<const std::string_view> names = {};
  // … and names that count only on a layer of one of the model's widths.
  std::span<const std::string_view> names_at_width = {};
  // Against it: a width that is none of these, where `sizes` tells it; …
  std::span<const int64_t> widths = {};
  std::span<const LayerSize> sizes = {};
  // … a list of blocks that it does not have, or a block beyond its last one; …
  std::span<const BlockList> blocks = {};
  // … and names that its layers do not have.
  std::span<const std::string_view> never = {};
  // Layers that trainers choose together: the second is in each file that has the first.
  std::span<const std::pair<std::string_view, std::string_view>> together = {};
  // Models whose files can look like those for this one, and whose layers have the same names. Such a file is taken to
  // be for this one.
  std::span<const BaseModel> alike = {};
};

struct BaseModelRow {
  BaseModel model;
  std::string_view name;                     // what `--base` takes: "sd1"
  std::string_view label;                    // "SD 1.x"
  std::string_view pipeline = "";            // diffusers' class; "" for a model that is known by name only
  std::span<const ComponentRow> components;  // the denoiser first

  NativeNames native = NativeNames::none;  // of the denoiser's layers
  bool kohya_has_native_names = false;     // otherwise sd-scripts uses diffusers' names for the denoiser
  int first_attention = 0;                 // the first of up_blocks' levels with attentions

  // How a file of it is told. By its layers; …
  Evidence evidence = {};
  // … by a UNet's cross-attention, which takes text embeddings of this width; 0: not told by it; …
  int64_t cross_attention = 0;
  // … by pieces that among UNets only its layers have; …
  std::span<const std::string_view> unet_marks = {};
  // … and by its metadata: how the name of the architecture begins, in small letters and digits; a last `$` for all
  // of it.
  std::span<const std::string_view> metadata = {};

  // What sd-scripts write into a plain LoRA's metadata.
  std::string_view network_module = "", version = "", spec = "";
  bool is_v2 = false;

  // Known by name only: nothing here says how its layers are named elsewhere.
  bool is_foreign() const { return pipeline.empty(); }
  bool has_transformer() const { return components.front().name == "transformer"; }
  std::string_view denoiser() const { return components.front().name; }
  // nullptr where its pipeline has no such component.
  const ComponentRow* component(std::string_view name) const;
};

// All rows, those with a pipeline first.
std::span<const BaseModelRow> base_models();
// Those that are known by name only.
std::span<const BaseModelRow> foreign_models();
// The row of a model; nullptr for unknown.
const BaseModelRow* row_of(BaseModel model);
// The first row of a pipeline's class; nullptr for none.
const BaseModelRow* row_of_pipeline(std::string_view class_name);
// The base model whose UNet takes text embeddings of that width; unknown for none.
BaseModel unet_with_cross_attention(int64_t width);
// Whether a module's path begins with a list of blocks of some model's denoiser.
bool starts_with_block_list(std::string_view path);

}  // namespace lora
