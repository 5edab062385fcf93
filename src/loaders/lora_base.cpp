#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "adapters/adapters.h"
#include "core/check.h"
#include "core/text.h"
#include "dialects/architecture.h"
#include "loaders/bundled_words.h"
#include "loaders/metadata.h"
#include "loaders/repository.h"
#include "loaders/scales.h"
#include "lora/loaders.h"

namespace lora {

namespace {

Adapters& adapters(const Model* model) { return Adapters::of(*model->parts()); }

// Each name of any row once, in the order in which they come.
template <class Rows, class NamesIn>
std::vector<std::string> names_of(const Rows& rows, NamesIn names_in) {
  std::vector<std::string> all;
  for (const auto& row : rows)
    for (const auto& name : names_in(row))
      if (std::find(all.begin(), all.end(), name) == all.end()) all.push_back(name);
  return all;
}

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
void check_architecture(const LoraStateDict& lora, const std::string& component, const Parts& denoiser) {
  auto refuse = [&](const std::string& theirs, const std::string& ours) {
    fail(ErrorKind::bad_shape, "{}: this LoRA is for {}; the model is for {}; nothing was loaded", lora.source, theirs,
         ours);
  };
  bool transformer = component == "transformer";
  if (!lora.architecture.empty() && transformer) {
    auto ours = architecture_of(denoiser.tensors).name;
    if (ours != lora.architecture) refuse(lora.architecture, ours);
  } else if (!lora.architecture.empty() && denoiser_of(lora.architecture) == "transformer") {
    refuse(lora.architecture, "a UNet");
  }
  if (lora.cross_attention == 0) return;
  for (const auto& site : denoiser.sites) {
    if (!site->path.ends_with("attn2.to_k")) continue;
    auto name = [](int64_t width) {
      auto family = unet_family(width);
      return fmt::format("{}text embeddings of width {}", family.empty() ? "" : family + ", with ", width);
    };
    auto wanted = site->weight.size(1);
    if (lora.cross_attention != wanted) refuse(name(lora.cross_attention), name(wanted));
    return;
  }
}

}  // namespace

bool is_by_onetrainer(const std::map<std::string, std::string>& metadata) {
  auto first = metadata.lower_bound("ot_");
  return first != metadata.end() && first->first.starts_with("ot_");
}

constexpr const char* kNoComponent = "the pipeline has no such component";
constexpr const char* kControlLora =
    "of a Control-LoRA, which adapts a ControlNet made of the base model's encoder; no pipeline here has one";

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

std::vector<LoraBaseMixin::Component> LoraBaseMixin::components_or_all(const std::vector<std::string>& names) const {
  std::vector<Component> chosen;
  for (const auto& name : names) chosen.push_back(component(name));
  return chosen.empty() ? lora_components() : chosen;
}

std::map<std::string, Tensor> LoraBaseMixin::stage_words(const LoraStateDict& lora, const Component& c,
                                                         const std::string& replaced, LoadReport& report) const {
  auto words = words_for(c.name, *c.model->parts(), lora, report);
  if (words.empty()) return words;
  auto all = beside_loaded(words, adapters(c.model), replaced, lora.source);
  try {
    check_words(c.name, all);
  } catch (const Error& error) {
    fail(error.kind(), "{}: {}: {}; nothing was loaded", lora.source, c.name, error.what());
  }
  return words;
}

LoraBaseMixin::Staged LoraBaseMixin::stage(const LoraStateDict& lora, const std::vector<Component>& components,
                                           const std::string& replaced) const {
  Staged staged;
  staged.report = {.source = lora.source, .dialect = lora.dialect, .unmatched = lora.unmatched, .notes = lora.notes};
  auto denoiser = lora_components().front();
  check_architecture(lora, denoiser.name, *denoiser.model->parts());
  size_t seen = 0;
  for (const auto& c : components) {
    auto mine = share(lora, c.name);
    seen += mine.tensors.size();
    auto words = stage_words(lora, c, replaced, staged.report);
    if (mine.tensors.empty() && words.empty()) continue;
    auto config = config_for(c.name, lora.state_dict.metadata, lora.source);
    if (config && !mine.alphas.empty()) {
      staged.report.notes.push_back(fmt::format(
          "{}: the metadata's strengths are not used, because the file's layers have alphas of their own", c.name));
      config.reset();
    }
    auto prepared = prepare(*c.model->parts(), mine.tensors,
                            {.component = c.name,
                             .alphas = std::move(mine.alphas),
                             .config = std::move(config),
                             .by_onetrainer = is_by_onetrainer(lora.state_dict.metadata),
                             .base = [&](const Site& site) { return adapters(c.model).base(site); },
                             .base_bias = [&](const Site& site) { return adapters(c.model).base_bias(site); }});
    staged.report.notes.insert(staged.report.notes.end(), prepared.notes.begin(), prepared.notes.end());
    auto& unmatched = staged.report.unmatched;
    unmatched.insert(unmatched.end(), prepared.unmatched.begin(), prepared.unmatched.end());
    if (!prepared.adapter.entries.empty()) staged.report.components.push_back(std::move(prepared.report));
    if (prepared.adapter.entries.empty() && words.empty()) continue;
    prepared.adapter.words = std::move(words);
    staged.parts.push_back({c, std::move(prepared.adapter)});
  }
  if (seen < lora.state_dict.size())
    for (const auto& [key, tensor] : lora.state_dict)
      if (std::none_of(components.begin(), components.end(), [&](auto& c) { return key.starts_with(c.name + "."); }))
        staged.report.unmatched.push_back({key, key.starts_with("controlnet.") ? kControlLora : kNoComponent});
  for (const auto& embedding : lora.embeddings)
    if (std::none_of(components.begin(), components.end(), [&](auto& c) { return c.name == embedding.component; }))
      staged.report.unmatched.push_back({embedding.key, kNoComponent});
  if (staged.report.components.empty()) {
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

namespace {

LoraStateDictOptions reading(const LoadLoraOptions& options) {
  return {.weight_name = options.weight_name,
          .subfolder = options.subfolder,
          .use_safetensors = options.use_safetensors,
          .hub = options.hub};
}

void note_unused(const LoraSource& source, const HubOptions& hub, LoadReport& report) {
  if (source.path() && is_repository(*source.path())) return;
  std::vector<std::string> given;
  if (!hub.cache_dir.empty()) given.push_back("cache_dir");
  if (hub.force_download) given.push_back("force_download");
  if (!hub.proxies.empty()) given.push_back("proxies");
  if (hub.local_files_only) given.push_back("local_files_only");
  if (hub.token.use() != HubToken::Use::if_any) given.push_back("token");
  if (!hub.revision.empty()) given.push_back("revision");
  if (!given.empty())
    report.notes.push_back(fmt::format("{} had no effect: the source is no repository on the Hub", join(given, ", ")));
}

void check_strict(bool strict, const LoadReport& report) {
  if (!strict || report.unmatched.empty()) return;
  std::vector<std::string> keys;
  for (const auto& u : report.unmatched) keys.push_back(fmt::format("{} ({})", u.key, u.reason));
  fail(ErrorKind::bad_key, "{}: {} keys are not matched, and `strict` was asked for: {}; nothing was loaded",
       report.source, keys.size(), listing(keys, 4));
}

}  // namespace

LoraBaseMixin::Staged LoraBaseMixin::stage_source(const LoraSource& source, const LoadLoraOptions& options) const {
  return stage(lora_state_dict(source, reading(options)), lora_components(),
               options.hotswap ? options.adapter_name : "");
}

LoadReport LoraBaseMixin::load_lora_weights(const LoraSource& source, const LoadLoraOptions& options) {
  auto staged = stage_source(source, options);
  check_strict(options.strict, staged.report);
  note_unused(source, options.hub, staged.report);
  if (options.hotswap) {
    check(!options.adapter_name.empty(), ErrorKind::usage, "hotswap: adapter_name must say which adapter is replaced");
    check_known({options.adapter_name});
  }
  staged.report.adapter_name = options.hotswap ? options.adapter_name : name_for(options.adapter_name);
  if (options.hotswap) {
    hotswap(staged);
    return std::move(staged.report);
  }
  for (const auto& c : lora_components()) adapters(c.model).set({}, {});
  for (auto& [c, adapter] : staged.parts) {
    adapter.name = staged.report.adapter_name;
    adapters(c.model).add(std::move(adapter));
  }
  return std::move(staged.report);
}

void LoraBaseMixin::hotswap(Staged& staged) {
  const auto& name = staged.report.adapter_name;
  auto active = get_active_adapters();
  bool is_active = std::find(active.begin(), active.end(), name) != active.end();
  std::optional<double> fused_scale;
  for (const auto& c : lora_components())
    if (auto scale = adapters(c.model).fused_scale(name)) fused_scale = scale;

  std::vector<std::string> impossible;
  if (fused_scale)
    for (const auto& part : staged.parts)
      for (const auto& path : Adapters::cannot_fuse(part.adapter))
        impossible.push_back(part.component.name + "." + path);
  check(impossible.empty(), ErrorKind::unsupported,
        "hotswap: \"{}\" is fused, and the new file adds a bias to {} layers that have none: {}; nothing was changed",
        name, impossible.size(), listing(impossible));

  for (const auto& c : lora_components()) {
    auto part =
        std::find_if(staged.parts.begin(), staged.parts.end(), [&](auto& p) { return p.component.name == c.name; });
    auto& registry = adapters(c.model);
    if (part == staged.parts.end()) {
      registry.remove({name});
      continue;
    }
    bool is_new = !registry.contains(name);
    part->adapter.name = name;
    if (is_new && scales_.contains(name)) {
      auto weights = weights_in(c, {scales_.at(name)});
      registry.replace(std::move(part->adapter), is_active, weights.front());
    } else {
      registry.replace(std::move(part->adapter), is_active);
    }
    if (is_new && fused_scale) registry.fuse({name}, *fused_scale);
  }
}

LoadReport LoraBaseMixin::match_lora(const LoraSource& source, const LoadLoraOptions& options) const {
  auto report = stage_source(source, options).report;
  check_strict(options.strict, report);
  return report;
}

LoadReport LoraBaseMixin::load_into(const Component& target, const LoraStateDict& lora, const LoadIntoOptions& options,
                                    double weight) {
  auto source = lora;
  if (!options.metadata.empty()) {
    check(lora.network_alphas.empty(), ErrorKind::usage,
          "{}: both metadata and network_alphas were given; each says how strong the layers are, so give one",
          target.name);
    source.state_dict.metadata[kAdapterMetadata] = prefixed_metadata(options.metadata, target.name);
  }
  auto staged = stage(source, {target});
  auto& registry = adapters(target.model);
  // One name may be spread over components by one call each; within a component it must be new.
  bool there = registry.contains(options.adapter_name);
  check(options.hotswap || !there, ErrorKind::conflict, "{} has an adapter \"{}\" already", target.name,
        options.adapter_name);
  check(!options.hotswap || there, ErrorKind::not_found, "{} has no adapter \"{}\" to replace", target.name,
        options.adapter_name);
  staged.report.adapter_name = options.adapter_name.empty() ? name_for("") : options.adapter_name;
  auto& adapter = staged.parts.front().adapter;
  adapter.name = staged.report.adapter_name;
  if (options.hotswap)
    registry.replace(std::move(adapter), true);
  else
    registry.add(std::move(adapter));
  if (weight != 1) registry.set({staged.report.adapter_name}, {{.number = weight}});
  return std::move(staged.report);
}

void LoraBaseMixin::check_known(const std::vector<std::string>& adapter_names) const {
  // In the order of get_list_adapters, by component's name.
  auto known = names_of(get_list_adapters(), [](auto& row) { return row.second; });
  for (const auto& name : adapter_names)
    check(std::find(known.begin(), known.end(), name) != known.end(), ErrorKind::not_found,
          "no adapter \"{}\" is loaded; {}", name, known.empty() ? "none is" : "there are: " + listing(known));
}

std::vector<SiteWeights> LoraBaseMixin::weights_in(const Component& c, const std::vector<LoraScale>& scales) const {
  std::vector<SiteWeights> weights;
  for (const auto& scale : scales) weights.push_back(resolve(scale, c.name, *c.model->parts()));
  return weights;
}

std::vector<std::string> LoraBaseMixin::set_adapters(const std::vector<std::string>& adapter_names,
                                                     const std::vector<LoraScale>& adapter_weights) {
  auto scales = adapter_weights;
  if (scales.empty()) scales = {1.0};
  if (scales.size() == 1) scales.resize(adapter_names.size(), scales.front());
  check(scales.size() == adapter_names.size(), ErrorKind::usage, "set_adapters: {} adapters, but {} weights",
        adapter_names.size(), scales.size());
  check_known(adapter_names);
  std::vector<std::vector<SiteWeights>> weights;  // by component; all of them are checked before any is set
  std::vector<std::string> components;
  for (const auto& c : lora_components()) {
    weights.push_back(weights_in(c, scales));
    components.push_back(c.name);
  }
  for (size_t i = 0; i < weights.size(); ++i) adapters(lora_components()[i].model).set(adapter_names, weights[i]);
  for (size_t i = 0; i < scales.size(); ++i) scales_.insert_or_assign(adapter_names[i], scales[i]);

  std::vector<std::string> remarks;
  auto is_fused = [&](const std::string& name) {
    auto all = lora_components();
    return std::any_of(all.begin(), all.end(),
                       [&](auto& c) { return adapters(c.model).fused_scale(name).has_value(); });
  };
  for (size_t i = 0; i < adapter_names.size(); ++i) {
    const auto& name = adapter_names[i];
    if (is_fused(name))
      remarks.push_back(fmt::format(
          "adapter \"{}\" is fused, so its new weight has no effect until unfuse_lora or the next fuse_lora", name));
    auto unknown = unknown_components(scales[i], components);
    std::sort(unknown.begin(), unknown.end());
    if (!unknown.empty())
      remarks.push_back(fmt::format("the weights of \"{}\" name components that are not here: {}; there are: {}", name,
                                    join(unknown, ", "), join(components, ", ")));
  }
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
  auto chosen = components_or_all(options.components);
  auto names_in = [&](const Component& c) {
    return options.adapter_names.empty() ? adapters(c.model).active() : options.adapter_names;
  };

  std::vector<std::string> impossible;
  for (const auto& c : chosen)
    for (const auto& path : adapters(c.model).cannot_fuse(names_in(c))) impossible.push_back(c.name + "." + path);
  check(impossible.empty(), ErrorKind::unsupported,
        "fuse_lora: the adapter adds a bias to {} layers that have none: {}; it can be active, but not fused",
        impossible.size(), listing(impossible));
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

void LoraBaseMixin::unfuse_lora(const UnfuseLoraOptions& options) {
  auto fused = fused_loras();
  for (const auto& name : options.adapter_names)
    check(std::find(fused.begin(), fused.end(), name) != fused.end(), ErrorKind::not_found,
          "unfuse_lora: \"{}\" is not fused; {}", name, fused.empty() ? "nothing is" : "there are: " + listing(fused));
  for (const auto& c : components_or_all(options.components)) adapters(c.model).unfuse(options.adapter_names);
}

std::vector<std::string> LoraBaseMixin::fused_loras() const {
  return names_of(lora_components(), [](auto& c) { return adapters(c.model).fused(); });
}

int LoraBaseMixin::num_fused_loras() const { return int(fused_loras().size()); }

void LoraBaseMixin::delete_adapters(const std::vector<std::string>& adapter_names) {
  check_known(adapter_names);
  for (const auto& c : lora_components()) adapters(c.model).remove(adapter_names);
  for (const auto& name : adapter_names) scales_.erase(name);
}

void LoraBaseMixin::unload_lora_weights() {
  for (const auto& c : lora_components()) adapters(c.model).unload();
  scales_.clear();
}

std::vector<std::string> LoraBaseMixin::get_active_adapters() const {
  return names_of(lora_components(), [](auto& c) { return adapters(c.model).active(); });
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

}  // namespace lora
