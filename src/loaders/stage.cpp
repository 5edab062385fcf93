#include "loaders/stage.h"

#include <algorithm>

#include "core/check.h"
#include "dialects/architecture.h"
#include "loaders/bundled_words.h"
#include "loaders/metadata.h"

namespace lora {

namespace {

constexpr const char* kNoComponent = "the pipeline has no such component";
constexpr const char* kControlLora =
    "of a Control-LoRA, which adapts a ControlNet made of the base model's encoder; no pipeline here has one";

bool is_by_onetrainer(const std::map<std::string, std::string>& metadata) {
  auto first = metadata.lower_bound("ot_");
  return first != metadata.end() && first->first.starts_with("ot_");
}

// The tensors and alphas of one component, without its name.
struct OfComponent {
  StateDict tensors;
  std::map<std::string, double> alphas;
};

OfComponent of_component(const LoraStateDict& lora, const std::string& component) {
  OfComponent mine;
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

// The adapter's part of one component; nullptr where the file has nothing for it.
std::shared_ptr<const Adapter> stage_part(const LoraStateDict& lora, const AdapterRegistry& registry,
                                          const AdapterRegistry::Component& c, OfComponent mine, LoadReport& report) {
  auto words = words_for(c.name, *c.parts, lora, report);
  if (mine.tensors.empty() && words.empty()) return nullptr;
  auto config = config_for(c.name, lora.state_dict.metadata, lora.source);
  if (config && !mine.alphas.empty()) {
    report.notes.push_back(fmt::format(
        "{}: the metadata's strengths are not used, because the file's layers have alphas of their own", c.name));
    config.reset();
  }
  auto prepared = prepare(*c.parts, mine.tensors,
                          {.component = c.name,
                           .alphas = std::move(mine.alphas),
                           .config = std::move(config),
                           .by_onetrainer = is_by_onetrainer(lora.state_dict.metadata),
                           .base = [&](const Site& site) { return registry.base(site); },
                           .base_bias = [&](const Site& site) { return registry.base_bias(site); }});
  report.notes.insert(report.notes.end(), prepared.notes.begin(), prepared.notes.end());
  report.unmatched.insert(report.unmatched.end(), prepared.unmatched.begin(), prepared.unmatched.end());
  if (!prepared.adapter.entries.empty()) report.components.push_back(std::move(prepared.report));
  if (prepared.adapter.entries.empty() && words.empty()) return nullptr;
  prepared.adapter.words = std::move(words);
  return std::make_shared<const Adapter>(std::move(prepared.adapter));
}

}  // namespace

StagedLoad stage(const LoraStateDict& lora, const AdapterRegistry& registry, const std::vector<size_t>& chosen) {
  const SnapshotScope unwritten(registry);  // some kinds look at base weights
  StagedLoad staged;
  staged.report = {.source = lora.source, .dialect = lora.dialect, .unmatched = lora.unmatched, .notes = lora.notes};
  const auto& components = registry.components();
  const auto& denoiser = components.front();
  check_architecture(lora, denoiser.name, *denoiser.parts);
  staged.parts.resize(components.size());
  size_t seen = 0;
  for (auto i : chosen) {
    auto mine = of_component(lora, components[i].name);
    seen += mine.tensors.size();
    staged.parts[i] = stage_part(lora, registry, components[i], std::move(mine), staged.report);
  }
  auto is_chosen = [&](const std::string& name) {
    return std::any_of(chosen.begin(), chosen.end(), [&](auto i) { return components[i].name == name; });
  };
  auto& unmatched = staged.report.unmatched;
  if (seen < lora.state_dict.size())
    for (const auto& [key, tensor] : lora.state_dict)
      if (!is_chosen(key.substr(0, key.find('.'))))
        unmatched.push_back({key, key.starts_with("controlnet.") ? kControlLora : kNoComponent});
  for (const auto& embedding : lora.embeddings)
    if (!is_chosen(embedding.component)) unmatched.push_back({embedding.key, kNoComponent});
  if (staged.report.components.empty())
    fail(ErrorKind::bad_key,
         "{}: none of its {} tensors belongs to a layer of this model, so it would change nothing; the first: {} ({})",
         lora.source, lora.state_dict.size(), unmatched.empty() ? "none" : unmatched.front().key,
         unmatched.empty() ? "" : unmatched.front().reason);
  return staged;
}

}  // namespace lora
