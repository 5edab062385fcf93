// From a source to canonical tensors and alphas.
#include <ATen/ATen.h>

#include <nlohmann/json.hpp>
#include <set>

#include "core/check.h"
#include "dialects/dialect.h"
#include "io/mapped_file.h"
#include "loaders/lora_file.h"
#include "loaders/metadata.h"

namespace lora {

namespace fs = std::filesystem;

namespace {

double read_alpha(const std::string& key, const Tensor& alpha, const std::string& label) {
  check(alpha.numel() == 1, ErrorKind::bad_shape, "{}: {} holds {} numbers; an alpha is one", label, key,
        alpha.numel());
  return alpha.to(at::kDouble).item<double>();
}

// What a source holds, and PEFT's configs beside it by component; "" for all components of the file.
struct Raw {
  StateDict tensors;
  std::map<std::string, fs::path> configs;
};

Raw read_raw(const LoraFile& file) {
  Raw raw;
  if (file.components.empty()) {
    raw.tensors = load_state_dict(file.path);
    if (auto config = file.path.parent_path() / kAdapterConfig; fs::exists(config)) raw.configs[""] = config;
    return raw;
  }
  for (const auto& component : file.components) {
    raw.configs[component] = file.path / component / kAdapterConfig;
    auto tensors = load_state_dict(find_lora_file(file.path / component, {}).path);
    for (const auto& [key, tensor] : tensors) raw.tensors.set(component + "." + key, tensor);
  }
  return raw;
}

// The configs as a file's own metadata would have them.
void add_configs(const std::map<std::string, fs::path>& configs, Canonical& canonical) {
  if (canonical.dialect != "peft") return;
  std::set<std::string> components;
  for (const auto& [key, tensor] : canonical.tensors) components.insert(key.substr(0, key.find('.')));
  auto all = nlohmann::json::object();
  for (const auto& [of, config] : configs)
    for (const auto& component : of.empty() ? components : std::set{of})
      all.update(nlohmann::json::parse(adapter_config_as_metadata(config, component)));
  if (!all.empty()) canonical.tensors.metadata[kAdapterMetadata] = all.dump();
}

}  // namespace

LoraStateDict read_lora_state_dict(const LoraSource& source, const ReadLoraOptions& options,
                                   const std::string& denoiser) {
  LoraStateDict lora{.source = source.label()};
  Raw raw;
  if (auto* tensors = source.state_dict()) {
    raw.tensors = *tensors;
  } else {
    auto file = find_lora_file(*source.path(), options);
    lora.source = file.label;
    lora.path = file.path;
    lora.notes = file.notes;
    raw = read_raw(file);
  }
  auto canonical = to_canonical(raw.tensors, denoiser, lora.source);
  add_configs(raw.configs, canonical);
  lora.architecture = canonical.architecture.name;
  lora.cross_attention = canonical.architecture.cross_attention;
  lora.dialect = canonical.dialect;
  lora.embeddings = std::move(canonical.embeddings);
  lora.unmatched = std::move(canonical.unmatched);
  lora.notes.insert(lora.notes.end(), canonical.notes.begin(), canonical.notes.end());
  lora.state_dict.metadata = std::move(canonical.tensors.metadata);
  // Alphas lie all over a file, and the pages around each come with it: given back as we go, they do not add up.
  auto files = source.path() ? mapped_files(raw.tensors) : std::vector<std::shared_ptr<const MappedFile>>();
  constexpr size_t kOften = 128;
  for (const auto& [key, tensor] : canonical.tensors)
    if (!key.ends_with(".alpha")) {
      lora.state_dict.set(key, tensor);
    } else {
      lora.network_alphas[key] = read_alpha(key, tensor, lora.source);
      if (lora.network_alphas.size() % kOften == 0)
        for (const auto& file : files) file->release_pages();
    }
  return lora;
}

}  // namespace lora
