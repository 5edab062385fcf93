#pragma once
// The base models that LoRAs are made for. A base model is one row of a table: all that other code asks about one is
// in its row.
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

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

struct BaseModelRow {
  BaseModel model;
  std::string_view label;                    // "SD 1.x"
  std::string_view pipeline;                 // diffusers' class
  std::span<const ComponentRow> components;  // the denoiser first

  NativeNames native;           // of the denoiser's layers
  bool kohya_has_native_names;  // otherwise sd-scripts uses diffusers' names for the denoiser
  int first_attention = 0;      // the first of up_blocks' levels with attentions

  // How a file of it is told. By its layers: a piece that some layer's path has, or …
  std::span<const std::string_view> marks;
  // … a UNet's cross-attention that takes text embeddings of this width; 0: not told by it
  int64_t cross_attention = 0;
  // … a transformer block's own attention that takes inputs of this width; 0: any; none: not told by it
  std::optional<int64_t> attention;
  // … a UNet with one of these pieces in a path, or this component
  std::span<const std::string_view> unet_marks;
  // By its metadata: how `ss_base_model_version` and `modelspec.architecture` begin; "" where they never say it.
  std::string_view version_prefix, spec_prefix;

  // What sd-scripts write into a plain LoRA's metadata.
  std::string_view network_module, version;
  bool is_v2 = false;

  bool has_transformer() const { return components.front().name == "transformer"; }
  std::string_view denoiser() const { return components.front().name; }
  // nullptr where its pipeline has no such component.
  const ComponentRow* component(std::string_view name) const;
};

// In the order in which a file is asked: a model's marks may be found in the files of those after it.
std::span<const BaseModelRow> base_models();
// The row of a model; nullptr for unknown.
const BaseModelRow* row_of(BaseModel model);
// The first row of a pipeline's class; nullptr for none.
const BaseModelRow* row_of_pipeline(std::string_view class_name);
// The base model whose UNet takes text embeddings of that width; unknown for none.
BaseModel unet_with_cross_attention(int64_t width);

}  // namespace lora
