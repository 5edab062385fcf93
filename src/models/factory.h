#pragma once
// The functions that make a model. The source file of each model defines its Impl, an aggregate that begins with
//   Scope s;
//   Config c;                                      // with static Config parse(json text, label)
// and has these members:
//   static constexpr WeightFiles kFiles;           // the file names of its library
//   std::string class_name() const;
//   static std::vector<std::string> aliases(name)  // optional: other names that files use, see Aliases
//   static std::set<std::string> ignorable()       // optional: tensors of files that the model does not use
// After Impl, the file has
//   template class PretrainedModel<Self>;
#include "checkpoints/component_files.h"
#include "io/public_call.h"
#include "models/model_loader.h"
#include "models/parts_of.h"

namespace lora {

template <class Impl>
Aliases aliases_of() {
  if constexpr (requires { Impl::aliases(std::string()); }) return Impl::aliases;
  return {};
}

template <class Impl>
std::set<std::string> ignorable_of() {
  if constexpr (requires { Impl::ignorable(); }) return Impl::ignorable();
  return {};
}

template <class Self>
Self PretrainedModel<Self>::make(const std::string& config, ModelLoader& loader, const std::string& label) {
  auto impl = std::make_shared<Impl>(Impl{loader.root(), decltype(Impl::c)::parse(config, label)});
  Made made{.class_name = impl->class_name(),
            .config = config,
            .dtype = loader.dtype(),
            .device = loader.device(),
            .parts = loader.finish(ignorable_of<Impl>()),
            .notes = loader.notes()};
  return Self(std::move(made), std::move(impl));
}

template <class Self>
const typename PretrainedModel<Self>::Impl& PretrainedModel<Self>::impl() const {
  made();  // throws if the model was moved from
  return *impl_;
}

template <class Self>
Self PretrainedModel<Self>::from_pretrained(const std::filesystem::path& folder, const ModelOptions& options) {
  return public_call([&] {
    auto found = open_component(folder, Impl::kFiles, options.variant);
    return from_state_dict(found.config, found.tensors, options, found.label);
  });
}

template <class Self>
Self PretrainedModel<Self>::from_state_dict(const std::string& config, const StateDict& tensors,
                                            const ModelOptions& options, const std::string& label) {
  return public_call([&] {
    ModelLoader loader(tensors, label, options, aliases_of<Impl>());
    return make(config, loader, label);
  });
}

template <class Self>
Self PretrainedModel<Self>::random(const std::string& config, uint64_t seed, const ModelOptions& options) {
  return public_call([&] {
    auto loader = ModelLoader::random(seed, options);
    return make(config, loader, "random weights");
  });
}

}  // namespace lora
