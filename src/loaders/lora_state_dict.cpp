// From a source to canonical tensors and alphas.
#include <ATen/ATen.h>

#include "core/check.h"
#include "dialects/architecture.h"
#include "dialects/dialect.h"
#include "loaders/lora_file.h"
#include "loaders/metadata.h"

namespace lora {

namespace {

double read_alpha(const std::string& key, const Tensor& alpha, const std::string& label) {
  check(alpha.numel() == 1, ErrorKind::bad_shape, "{}: {} holds {} numbers; an alpha is one", label, key,
        alpha.numel());
  return alpha.to(at::kDouble).item<double>();
}

}  // namespace

LoraStateDict LoraBaseMixin::lora_state_dict(const LoraSource& source, const LoraStateDictOptions& options) const {
  LoraStateDict lora{.source = source.label()};
  std::filesystem::path folder;
  StateDict raw;
  if (auto* tensors = source.state_dict()) {
    raw = *tensors;
  } else {
    auto file = find_lora_file(*source.path(), options);
    lora.source = file.path.string();
    lora.notes = file.notes;
    folder = file.path.parent_path();
    raw = load_state_dict(file.path);
  }
  auto denoiser = lora_components().front().name;
  auto canonical = to_canonical(raw, denoiser, lora.source);
  if (auto config = folder / "adapter_config.json";
      canonical.dialect == "peft" && !folder.empty() && std::filesystem::exists(config))
    canonical.tensors.metadata[kAdapterMetadata] = adapter_config_as_metadata(config, denoiser);
  auto architecture = architecture_of(raw);
  lora.architecture = architecture.name;
  lora.cross_attention = architecture.cross_attention;
  lora.dialect = canonical.dialect;
  lora.unmatched = std::move(canonical.unmatched);
  lora.state_dict.metadata = std::move(canonical.tensors.metadata);
  for (const auto& [key, tensor] : canonical.tensors)
    if (key.ends_with(".alpha"))
      lora.network_alphas[key] = read_alpha(key, tensor, lora.source);
    else
      lora.state_dict.set(key, tensor);
  return lora;
}

}  // namespace lora
