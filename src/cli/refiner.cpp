#include "refiner.h"

#include <cstdio>

#include "check.h"
#include "fusing.h"
#include "output.h"

namespace lora::cli {

namespace {

const StableDiffusionXLPipeline* as_xl(const DiffusionPipeline& pipe, const char* what) {
  auto* xl = dynamic_cast<const StableDiffusionXLPipeline*>(&pipe);
  check(xl != nullptr, ErrorKind::usage, "--refiner: {} is a {}. Only SDXL models have a refiner.", what,
        pipe.class_name());
  return xl;
}

// Whether a load failed because the file is for another model.
bool does_not_fit(const Error& error) {
  return error.kind() == ErrorKind::bad_key || error.kind() == ErrorKind::bad_shape ||
         error.kind() == ErrorKind::unsupported;
}

}  // namespace

Refiner::Refiner(const DiffusionPipeline& base, const std::string& path, double start, const PipelineOptions& options)
    : start_(start) {
  check(start > 0 && start < 1, ErrorKind::usage,
        "--refiner-start {}: it is a fraction of the run, more than 0 and less than 1", start);
  base_ = as_xl(base, "MODEL");
  opened_ = open_pipeline(path, options);
  refiner_ = as_xl(*opened_, path.c_str());
}

void Refiner::load_loras(const std::vector<LoraArgument>& loras, PartialLora partial,
                         const std::optional<FuseLoraOptions>& fuse) {
  for (const auto& lora : loras) {
    try {
      // Alone, to learn whether it fits. All that fit are loaded together below.
      cli::load_loras(*opened_, {lora}, partial, /*for_a_call=*/!fuse);
      loras_.push_back(lora);
    } catch (const Error& error) {
      if (!does_not_fit(error)) throw;
      note(fmt::format("{} does not fit the refiner, which draws without it: {}", lora.file, error.what()));
    }
  }
  opened_->unload_lora_weights();
  reports_ = cli::load_loras(*opened_, loras_, partial, /*for_a_call=*/!fuse);
  if (fuse && !loras_.empty()) cli::fuse(*opened_, *fuse);
}

void Refiner::load_embeddings(const std::vector<EmbeddingArgument>& embeddings) {
  for (const auto& embedding : embeddings) {
    try {
      cli::load_embeddings(*opened_, {embedding});
    } catch (const Error& error) {
      if (!does_not_fit(error)) throw;
      note(fmt::format("{} does not fit the refiner, which reads its word as text: {}", embedding.file, error.what()));
    }
  }
}

std::vector<Image> Refiner::draw(const std::string& prompt, const CallOptions& whole, PictureRange range) const {
  auto call = of_range(whole, range);
  auto end = whole;
  call.denoising_end = start_;
  end.denoising_start = start_;
  end.latents = base_->generate_latents(prompt, call);
  // The latents are those of the image from here on. With a mask, the image is still what the rest is made of.
  if (call.mask_image.empty()) end.image = {};
  end.height = int(end.latents.size(2) * base_->vae.scale_factor());
  end.width = int(end.latents.size(3) * base_->vae.scale_factor());
  if (!refiner_->text_encoder) end.prompt_2 = end.negative_prompt_2 = {};
  end.adapters.reset();
  end.adapters_per_image.clear();
  set_call_adapters(*opened_, loras_, reports_, whole.num_images_per_prompt, end);
  return (*refiner_)(prompt, of_range(end, range));
}

}  // namespace lora::cli
