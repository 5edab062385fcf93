#include "core/check.h"
#include "io/public_call.h"
#include "lora/pipelines.h"
#include "pipelines/pipeline_files.h"

namespace lora {

namespace fs = std::filesystem;

StableDiffusionPipeline StableDiffusionPipeline::from_pretrained(const fs::path& path, const PipelineOptions& options) {
  return public_call([&] { return open({path, options, PipelineFamily::stable_diffusion}); });
}

StableDiffusionXLPipeline StableDiffusionXLPipeline::from_pretrained(const fs::path& path,
                                                                     const PipelineOptions& options) {
  return public_call([&] { return open({path, options, PipelineFamily::stable_diffusion_xl}); });
}

StableDiffusion3Pipeline StableDiffusion3Pipeline::from_pretrained(const fs::path& path,
                                                                   const PipelineOptions& options) {
  return public_call([&] { return open({path, options, PipelineFamily::stable_diffusion_3}); });
}

AmusedPipeline AmusedPipeline::from_pretrained(const fs::path& path, const PipelineOptions& options) {
  return public_call([&] { return open({path, options, PipelineFamily::amused}); });
}

std::unique_ptr<DiffusionPipeline> DiffusionPipeline::from_pretrained(const fs::path& path,
                                                                      const PipelineOptions& options) {
  return public_call([&]() -> std::unique_ptr<DiffusionPipeline> {
    PipelineFiles files(path, options);
    switch (files.family()) {
      case PipelineFamily::stable_diffusion:
        return std::make_unique<StableDiffusionPipeline>(StableDiffusionPipeline::open(files));
      case PipelineFamily::stable_diffusion_xl:
        return std::make_unique<StableDiffusionXLPipeline>(StableDiffusionXLPipeline::open(files));
      case PipelineFamily::stable_diffusion_3:
        return std::make_unique<StableDiffusion3Pipeline>(StableDiffusion3Pipeline::open(files));
      case PipelineFamily::amused: return std::make_unique<AmusedPipeline>(AmusedPipeline::open(files));
    }
    fail(ErrorKind::unsupported, "{}: a pipeline of no known family", path.string());
  });
}

std::vector<Image> DiffusionPipeline::operator()(const Prompts& prompt, const CallOptions& options) const {
  return decode_latents(generate_latents(prompt, options));
}

DiffusionPipeline::DiffusionPipeline(std::shared_ptr<const Scheduler> given) : scheduler(std::move(given)) {
  check_scheduler();
}

void DiffusionPipeline::check_scheduler() const {
  check(scheduler != nullptr, ErrorKind::usage, "the pipeline has no scheduler; set one");
}

}  // namespace lora
