#include <limits>

#include "core/check.h"
#include "core/text.h"
#include "io/public_call.h"
#include "loaders/registry_of.h"
#include "lora/pipelines.h"
#include "pipelines/call_images.h"
#include "pipelines/call_options.h"
#include "pipelines/pipeline_files.h"

namespace lora {

namespace fs = std::filesystem;

namespace {

// The folder, in a saved model, of the layers that are not in the weights.
constexpr const char* kUnfusedLoras = "unfused_loras";

// Notes that an image is decoded in tiles, if it is the missing memory that makes it so.
void note_tiles(const DiffusionPipeline& pipe, const Tensor& latents, const CallOptions& options) {
  auto* latent = dynamic_cast<const LatentDiffusionPipeline*>(&pipe);
  if (!latent) return;
  const auto height = latents.size(2) * latent->vae.scale_factor(),
             width = latents.size(3) * latent->vae.scale_factor();
  const double free = free_memory();
  if (latent->vae.uses_tiles(height, width, free) &&
      !latent->vae.uses_tiles(height, width, std::numeric_limits<double>::infinity()))
    note(options, "the images are decoded in tiles, because the memory is missing to decode one of them whole");
}

}  // namespace

StableDiffusionPipeline StableDiffusionPipeline::from_pretrained(const fs::path& path, const PipelineOptions& options) {
  return public_call([&] { return open({path, options, "StableDiffusionPipeline"}); });
}

StableDiffusionXLPipeline StableDiffusionXLPipeline::from_pretrained(const fs::path& path,
                                                                     const PipelineOptions& options) {
  return public_call([&] { return open({path, options, "StableDiffusionXLPipeline"}); });
}

StableDiffusion3Pipeline StableDiffusion3Pipeline::from_pretrained(const fs::path& path,
                                                                   const PipelineOptions& options) {
  return public_call([&] { return open({path, options, "StableDiffusion3Pipeline"}); });
}

AmusedPipeline AmusedPipeline::from_pretrained(const fs::path& path, const PipelineOptions& options) {
  return public_call([&] { return open({path, options, "AmusedPipeline"}); });
}

std::unique_ptr<DiffusionPipeline> DiffusionPipeline::from_pretrained(const fs::path& path,
                                                                      const PipelineOptions& options) {
  using Opened = std::unique_ptr<DiffusionPipeline>;
  using Files = const PipelineFiles&;
  static const std::map<std::string_view, Opened (*)(Files)> open_class{
      {"StableDiffusionPipeline",
       [](Files f) -> Opened { return std::make_unique<StableDiffusionPipeline>(StableDiffusionPipeline::open(f)); }},
      {"StableDiffusionXLPipeline",
       [](Files f) -> Opened {
         return std::make_unique<StableDiffusionXLPipeline>(StableDiffusionXLPipeline::open(f));
       }},
      {"StableDiffusion3Pipeline",
       [](Files f) -> Opened { return std::make_unique<StableDiffusion3Pipeline>(StableDiffusion3Pipeline::open(f)); }},
      {"AmusedPipeline", [](Files f) -> Opened { return std::make_unique<AmusedPipeline>(AmusedPipeline::open(f)); }}};
  return public_call([&] {
    const PipelineFiles files(path, options);
    return open_class.at(files.pipeline_class())(files);
  });
}

std::vector<Image> DiffusionPipeline::operator()(const Prompts& prompt, const CallOptions& options) const {
  const auto latents = generate_latents(prompt, options);
  note_tiles(*this, latents, options);
  auto images = decode_latents(latents);
  return public_call([&] {
    const CallImages given(options, images.front().height, images.front().width);
    return given.with_overlay(std::move(images));
  });
}

std::vector<std::string> DiffusionPipeline::notes() const {
  auto all = notes_of_files_;
  auto components = models();
  components.push_back(autoencoder());
  for (const auto& c : components) all.insert(all.end(), c.model->notes().begin(), c.model->notes().end());
  return all;
}

void DiffusionPipeline::save_pretrained(const fs::path& folder) const {
  public_call([&] {
    const SnapshotScope scope(registry_of(*this));  // no other thread writes weights meanwhile
    check_scheduler(*this);
    PipelineFolder out(folder);
    out.set("_class_name", class_name());
    for (const auto& c : models()) out.add(c.name, *c.model);
    out.add(autoencoder().name, *autoencoder().model);
    out.add(*scheduler);
    add_to(out);
    const auto& registry = registry_of(*this);
    for (const auto& [name, layers] : layers_beside_weights(registry, registry.of(scope).state))
      save(out.path() / kUnfusedLoras, layers, {.weight_name = replace_all(name, "/", "_") + ".safetensors"});
    out.finish();
  });
}

void DiffusionPipeline::check_save_folder(const fs::path& folder) {
  public_call([&] { PipelineFolder out(folder); });
}

std::unique_ptr<Scheduler> DiffusionPipeline::scheduler_named(const std::string& name) const {
  return public_call([&] {
    check_scheduler(*this);
    const auto predicts = predicted_for(*scheduler);
    // The class tells it, unless a config sets a class for noise to flow matching.
    if (predicted_for(scheduler->class_name()).value_or(predicts) == predicts)
      check_scheduler_fits(name, predicts, class_name());
    auto made = Scheduler::from_config(scheduler->config(), name);
    check_scheduler_fits(*made, predicts, class_name());
    return made;
  });
}

DiffusionPipeline::DiffusionPipeline(std::shared_ptr<const Scheduler> given) : scheduler(std::move(given)) {
  check_scheduler(*this);
}

void DiffusionPipeline::adapt_models() {
  std::vector<std::pair<std::string, Model*>> all;
  // The models are members of this pipeline, which is not const here.
  for (const auto& [name, model] : models()) all.emplace_back(name, const_cast<Model*>(model));
  adapt(all);
}

Dtype stored_dtype(const fs::path& path, const PipelineOptions& options) {
  return PipelineFiles(path, options).stored_dtype();
}

}  // namespace lora
