#pragma once
// The ways in which every model is made. A model's source file ends its Impl, an aggregate that begins with
//   Scope s;
//   Config c;                                      // with static Config parse(json text, label)
// and has
//   static constexpr WeightFiles kFiles;           // how its library names the files
//   std::string class_name() const;
//   static std::vector<std::string> aliases(name)  // where files spell names otherwise: see Aliases
//   static std::set<std::string> ignorable()       // where files have tensors that it does without
// with
//   template class PretrainedModel<Self>;
#include "models/loading.h"

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
  Self model;
  model.class_name_ = impl->class_name();
  model.config_ = config;
  model.dtype_ = loader.dtype();
  model.device_ = loader.device();
  model.parts_ = loader.finish(ignorable_of<Impl>());
  model.impl_ = std::move(impl);
  return model;
}

template <class Self>
Self PretrainedModel<Self>::from_pretrained(const std::filesystem::path& folder, const ModelOptions& options) {
  auto found = open_component(folder, Impl::kFiles, options.variant);
  return from_state_dict(found.config, found.tensors, options, found.label);
}

template <class Self>
Self PretrainedModel<Self>::from_state_dict(const std::string& config, const StateDict& tensors,
                                            const ModelOptions& options, const std::string& label) {
  ModelLoader loader(tensors, label, options, aliases_of<Impl>());
  return make(config, loader, label);
}

template <class Self>
Self PretrainedModel<Self>::random(const std::string& config, uint64_t seed, const ModelOptions& options) {
  auto loader = ModelLoader::random(seed, options);
  return make(config, loader, "random weights");
}

}  // namespace lora
