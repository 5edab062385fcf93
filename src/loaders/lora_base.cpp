#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "adapters/adapters.h"
#include "core/check.h"
#include "core/text.h"
#include "dialects/architecture.h"
#include "loaders/metadata.h"
#include "lora/loaders.h"

namespace lora {

namespace {

Adapters& adapters(const Model* model) { return Adapters::of(*model->parts()); }

// The tensors and alphas of one component, without its name.
struct Share {
  StateDict tensors;
  std::map<std::string, double> alphas;
};

Share share(const LoraStateDict& lora, const std::string& component) {
  Share mine;
  auto prefix = component + ".";
  for (const auto& [key, tensor] : lora.state_dict)
    if (key.starts_with(prefix)) mine.tensors.set(key.substr(prefix.size()), tensor);
  constexpr std::string_view kAlpha = ".alpha";
  for (const auto& [key, alpha] : lora.network_alphas)
    if (key.starts_with(prefix))
      mine.alphas[key.substr(prefix.size(), key.size() - prefix.size() - kAlpha.size())] = alpha;
  return mine;
}

// A file for another base model is one error, not a list of misfits.
void check_architecture(const LoraStateDict& lora, const Parts& denoiser) {
  if (lora.cross_attention == 0) return;
  for (const auto& site : denoiser.sites) {
    if (!site->path.ends_with("attn2.to_k")) continue;
    auto wanted = site->weight.size(1);
    auto name = [](int64_t width) {
      auto family = unet_family(width);
      return fmt::format("{}text embeddings of width {}", family.empty() ? "" : family + ", with ", width);
    };
    check(lora.cross_attention == wanted, ErrorKind::bad_shape,
          "{}: this LoRA is for {}; the model is for {}; nothing was loaded", lora.source, name(lora.cross_attention),
          name(wanted));
    return;
  }
}

}  // namespace

// Everything of a load that can fail has happened once this is made.
struct LoraBaseMixin::Staged {
  struct Part {
    Component component;
    Adapter adapter;
  };
  std::vector<Part> parts;
  LoadReport report;
};

LoraBaseMixin::Component LoraBaseMixin::component(const std::string& name) const {
  std::vector<std::string> known;
  for (const auto& c : lora_components()) {
    if (c.name == name) return c;
    known.push_back(c.name);
  }
  fail(ErrorKind::usage, "\"{}\" is no component that holds LoRA here; there are: {}", name, join(known, ", "));
}

LoraBaseMixin::Staged LoraBaseMixin::stage(const LoraStateDict& lora, const std::vector<Component>& components) const {
  Staged staged;
  staged.report = {.source = lora.source, .dialect = lora.dialect, .unmatched = lora.unmatched, .notes = lora.notes};
  check_architecture(lora, *lora_components().front().model->parts());
  size_t seen = 0;
  for (const auto& c : components) {
    auto mine = share(lora, c.name);
    seen += mine.tensors.size();
    if (mine.tensors.empty()) continue;
    auto config = mine.alphas.empty() ? config_for(c.name, lora.state_dict.metadata, lora.source) : std::nullopt;
    auto prepared = prepare(*c.model->parts(), mine.tensors,
                            {.component = c.name, .alphas = std::move(mine.alphas), .config = std::move(config)});
    auto& unmatched = staged.report.unmatched;
    unmatched.insert(unmatched.end(), prepared.unmatched.begin(), prepared.unmatched.end());
    if (prepared.adapter.entries.empty()) continue;
    staged.report.components.push_back(std::move(prepared.report));
    staged.parts.push_back({c, std::move(prepared.adapter)});
  }
  if (seen < lora.state_dict.size())
    for (const auto& [key, tensor] : lora.state_dict)
      if (std::none_of(components.begin(), components.end(), [&](auto& c) { return key.starts_with(c.name + "."); }))
        staged.report.unmatched.push_back({key, "the pipeline has no such component"});
  if (staged.parts.empty()) {
    auto& unmatched = staged.report.unmatched;
    fail(ErrorKind::bad_key,
         "{}: none of its {} tensors belongs to a layer of this model, so it would change nothing; the first: {} ({})",
         lora.source, lora.state_dict.size(), unmatched.empty() ? "none" : unmatched.front().key,
         unmatched.empty() ? "" : unmatched.front().reason);
  }
  return staged;
}

std::string LoraBaseMixin::name_for(const std::string& wanted) {
  auto taken = [&](const std::string& name) {
    auto all = lora_components();
    return std::any_of(all.begin(), all.end(), [&](auto& c) { return adapters(c.model).contains(name); });
  };
  if (wanted.empty()) {
    std::string name;
    do name = fmt::format("default_{}", next_default_++);
    while (taken(name));
    return name;
  }
  check(!taken(wanted), ErrorKind::conflict,
        "an adapter \"{}\" is loaded already; give the new one another adapter_name, or delete the old one first",
        wanted);
  return wanted;
}

LoadReport LoraBaseMixin::load_lora_weights(const LoraSource& source, const LoadLoraOptions& options) {
  auto lora = lora_state_dict(
      source,
      {.weight_name = options.weight_name, .subfolder = options.subfolder, .use_safetensors = options.use_safetensors});
  auto staged = stage(lora, lora_components());
  staged.report.adapter_name = name_for(options.adapter_name);
  for (const auto& c : lora_components()) adapters(c.model).set({}, {});
  for (auto& [c, adapter] : staged.parts) {
    adapter.name = staged.report.adapter_name;
    adapters(c.model).add(std::move(adapter));
  }
  return std::move(staged.report);
}

LoadReport LoraBaseMixin::match_lora(const LoraSource& source, const LoadLoraOptions& options) const {
  auto lora = lora_state_dict(
      source,
      {.weight_name = options.weight_name, .subfolder = options.subfolder, .use_safetensors = options.use_safetensors});
  return stage(lora, lora_components()).report;
}

LoadReport LoraBaseMixin::load_into(const Component& target, const LoraStateDict& lora,
                                    const std::string& adapter_name) {
  auto staged = stage(lora, {target});
  auto& registry = adapters(target.model);
  // One name may be spread over components by one call each; within a component it must be new.
  check(adapter_name.empty() || !registry.contains(adapter_name), ErrorKind::conflict,
        "{} has an adapter \"{}\" already", target.name, adapter_name);
  staged.report.adapter_name = adapter_name.empty() ? name_for("") : adapter_name;
  auto& adapter = staged.parts.front().adapter;
  adapter.name = staged.report.adapter_name;
  registry.add(std::move(adapter));
  return std::move(staged.report);
}

void LoraBaseMixin::check_known(const std::vector<std::string>& adapter_names) const {
  std::vector<std::string> known;
  for (const auto& [component, names] : get_list_adapters())
    for (const auto& name : names)
      if (std::find(known.begin(), known.end(), name) == known.end()) known.push_back(name);
  for (const auto& name : adapter_names)
    check(std::find(known.begin(), known.end(), name) != known.end(), ErrorKind::not_found,
          "no adapter \"{}\" is loaded; {}", name, known.empty() ? "none is" : "there are: " + listing(known));
}

std::vector<std::string> LoraBaseMixin::set_adapters(const std::vector<std::string>& adapter_names,
                                                     const std::vector<double>& adapter_weights) {
  auto weights = adapter_weights;
  if (weights.empty()) weights = {1.0};
  if (weights.size() == 1) weights.resize(adapter_names.size(), weights.front());
  check(weights.size() == adapter_names.size(), ErrorKind::usage, "set_adapters: {} adapters, but {} weights",
        adapter_names.size(), weights.size());
  for (size_t i = 0; i < weights.size(); ++i)
    check(std::isfinite(weights[i]), ErrorKind::usage,
          "set_adapters: the weight of \"{}\" is {}; it must be a finite number", adapter_names[i], weights[i]);
  check_known(adapter_names);

  for (const auto& c : lora_components()) adapters(c.model).set(adapter_names, weights);
  std::vector<std::string> remarks;
  auto fused = fused_loras();
  for (const auto& name : adapter_names)
    if (std::find(fused.begin(), fused.end(), name) != fused.end())
      remarks.push_back(fmt::format(
          "adapter \"{}\" is fused, so its new weight has no effect until unfuse_lora or the next fuse_lora", name));
  return remarks;
}

void LoraBaseMixin::enable_lora() {
  for (const auto& c : lora_components()) adapters(c.model).enable(true);
}

void LoraBaseMixin::disable_lora() {
  for (const auto& c : lora_components()) adapters(c.model).enable(false);
}

void LoraBaseMixin::fuse_lora(const FuseLoraOptions& options) {
  check_known(options.adapter_names);
  check(std::isfinite(options.lora_scale), ErrorKind::usage, "fuse_lora: lora_scale is {}; it must be a finite number",
        options.lora_scale);
  std::vector<Component> chosen;
  for (const auto& name : options.components) chosen.push_back(component(name));
  if (chosen.empty()) chosen = lora_components();
  auto names_in = [&](const Component& c) {
    return options.adapter_names.empty() ? adapters(c.model).active() : options.adapter_names;
  };

  if (options.safe_fusing) {
    std::vector<std::string> broken;
    for (const auto& c : chosen)
      for (const auto& path : adapters(c.model).would_break(names_in(c), options.lora_scale))
        broken.push_back(c.name + "." + path);
    check(broken.empty(), ErrorKind::unsupported,
          "fuse_lora: fusing would leave NaN or infinity in {} layers: {}; nothing was fused", broken.size(),
          listing(broken));
  }
  for (const auto& c : chosen) adapters(c.model).fuse(names_in(c), options.lora_scale);
}

void LoraBaseMixin::unfuse_lora(const std::vector<std::string>& components) {
  std::vector<Component> chosen;
  for (const auto& name : components) chosen.push_back(component(name));
  if (chosen.empty()) chosen = lora_components();
  for (const auto& c : chosen) adapters(c.model).unfuse();
}

std::vector<std::string> LoraBaseMixin::fused_loras() const {
  std::vector<std::string> all;
  for (const auto& c : lora_components())
    for (const auto& name : adapters(c.model).fused())
      if (std::find(all.begin(), all.end(), name) == all.end()) all.push_back(name);
  return all;
}

int LoraBaseMixin::num_fused_loras() const { return int(fused_loras().size()); }

void LoraBaseMixin::delete_adapters(const std::vector<std::string>& adapter_names) {
  check_known(adapter_names);
  for (const auto& c : lora_components()) adapters(c.model).remove(adapter_names);
}

void LoraBaseMixin::unload_lora_weights() {
  for (const auto& c : lora_components()) adapters(c.model).unload();
}

std::vector<std::string> LoraBaseMixin::get_active_adapters() const {
  std::vector<std::string> all;
  for (const auto& c : lora_components())
    for (const auto& name : adapters(c.model).active())
      if (std::find(all.begin(), all.end(), name) == all.end()) all.push_back(name);
  return all;
}

std::map<std::string, std::vector<std::string>> LoraBaseMixin::get_list_adapters() const {
  std::map<std::string, std::vector<std::string>> all;
  for (const auto& c : lora_components())
    if (auto names = adapters(c.model).names(); !names.empty()) all[c.name] = names;
  return all;
}

void LoraBaseMixin::set_lora_device(const std::vector<std::string>& adapter_names, Device device) {
  check_known(adapter_names);
  for (const auto& c : lora_components())
    for (const auto& name : adapter_names) adapters(c.model).to(name, device);
}

StateDict LoraBaseMixin::get_lora_layers(const std::string& component_name, const std::string& adapter_name) const {
  StateDict layers;
  for (const auto& [site, delta] : adapters(component(component_name).model).adapter(adapter_name).entries) {
    for (const auto& [suffix, tensor] : delta->tensors()) layers.set(site->path + "." + suffix, tensor);
    if (delta->alpha() != double(delta->rank()))
      layers.set(site->path + ".alpha", at::scalar_tensor(delta->low_rank()->scale * double(delta->rank())));
  }
  return layers;
}

}  // namespace lora
