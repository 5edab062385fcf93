#include "files/inspect.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <future>
#include <mutex>

#include "core/check.h"
#include "core/text.h"
#include "files/inspect_checks.h"
#include "files/layers.h"

namespace lora {

namespace {

using Component = Inspection::Component;
using Facts = Inspection::Layer;

bool all_finite(const Module& module) {
  return std::all_of(module.begin(), module.end(), [](auto& entry) {
    return !entry.second.is_floating_point() || at::isfinite(entry.second.to(at::kFloat)).all().template item<bool>();
  });
}

Facts examined(const NamedModule& module) {
  Facts layer{.component = module.component, .path = module.path, .kind = kind_of(module)};
  // Of plain factors the norm tells; what applies the others passes them over.
  if (layer.kind != "LoRA" && !all_finite(module.tensors)) {
    layer.norm = NAN;
    return layer;
  }
  try {
    auto change = change_of(module);
    layer.rank = change.rank;
    layer.alpha = change.alpha;
    layer.rows = rows_of(module.tensors);
    layer.columns = columns_of(module.tensors);
    if (auto rows = module.tensors.find("lokr_rows"); rows != module.tensors.end())
      layer.rows = (rows->second[1] - rows->second[0]).item<int64_t>();
    layer.norm = change.norm();
  } catch (const Error& error) {
    layer.error = error.what();
  }
  for (const char* suffix : {"lora_A.weight", "diff"})
    if (auto it = module.tensors.find(suffix); it != module.tensors.end()) layer.convolution = it->second.dim() == 4;
  return layer;
}

std::vector<Facts> examine(const std::vector<NamedModule>& modules, const ToolProgress& progress) {
  std::vector<Facts> layers(modules.size());
  std::atomic<int> done = 0;
  std::mutex telling;
  at::parallel_for(0, int64_t(modules.size()), 1, [&](int64_t begin, int64_t end) {
    for (auto i = begin; i < end; ++i) {
      layers[i] = examined(modules[i]);
      auto now = ++done;
      if (!progress) continue;
      std::lock_guard lock(telling);
      progress(now, int(modules.size()));
    }
  });
  return layers;
}

// Of the models that the component may be of, the one that has most of these layers at their sizes.
PublishedComponent best_fit(std::vector<PublishedComponent> candidates, const std::vector<Facts>& layers,
                            const std::string& component) {
  auto fitting = [&](const PublishedComponent& model) {
    return std::count_if(layers.begin(), layers.end(), [&](auto& layer) {
      auto it = model.layers.find(layer.path);
      return layer.component == component && it != model.layers.end() && fits(layer, it->second);
    });
  };
  return *std::max_element(candidates.begin(), candidates.end(),
                           [&](auto& a, auto& b) { return fitting(a) < fitting(b); });
}

void count(std::vector<Inspection::Ranks>& ranks, const Facts& layer) {
  for (auto& row : ranks)
    if (row.rank == layer.rank && row.alpha == layer.alpha) {
      ++row.layers;
      return;
    }
  ranks.push_back({layer.rank, layer.alpha, 1});
}

Component summary(const std::string& name, const std::vector<Facts>& layers, const PublishedComponent* model) {
  Component component{.name = name};
  for (const auto& layer : layers) {
    if (layer.component != name) continue;
    ++component.kinds[layer.kind];
    ++(layer.convolution ? component.conv_layers : component.linear_layers);
    if (layer.rank > 0) count(component.ranks, layer);
    auto known = model ? model->layers.find(layer.path) : decltype(model->layers.end()){};
    if (model && known != model->layers.end())
      component.covered += known->second.kind == SiteKind::linear || known->second.kind == SiteKind::conv2d;
  }
  std::stable_sort(component.ranks.begin(), component.ranks.end(),
                   [](auto& a, auto& b) { return a.layers > b.layers; });
  if (model) {
    component.model = model->model;
    component.of = model->trainable();
  }
  return component;
}

// "DoRA", "LoRA with biases + full difference", …: most layers first.
std::string algorithm_of(const std::vector<Facts>& layers) {
  std::map<std::string, size_t> counts;
  for (const auto& layer : layers) ++counts[layer.kind];
  std::vector<std::pair<size_t, std::string>> order;
  for (const auto& [kind, n] : counts) order.emplace_back(n, kind);
  std::stable_sort(order.begin(), order.end(), [](auto& a, auto& b) { return a.first > b.first; });
  std::vector<std::string> kinds;
  for (const auto& [n, kind] : order) kinds.push_back(kind);
  return join(kinds, " + ");
}

std::string known_by(const LoraStateDict& lora) {
  if (lora.architecture.empty()) return "";
  if (lora.cross_attention != 0) return fmt::format("its cross-attention takes text of width {}", lora.cross_attention);
  // Names tell all others from these two, which have the same.
  bool told = lora.architecture == "SD 1.x" || lora.architecture == "SD 2.x";
  return told ? "its metadata says so" : "the names of its layers";
}

std::string trainer_of(const LoraStateDict& lora) {
  const auto& metadata = lora.state_dict.metadata;
  auto value = [&](const char* key) {
    auto it = metadata.find(key);
    return it == metadata.end() ? std::string() : it->second;
  };
  auto software = value("software");
  if (metadata.contains("ot_branch") || metadata.contains("ot_revision")) return "OneTrainer";
  if (software.find("ai-toolkit") != software.npos) return "ai-toolkit";
  if (auto module = value("ss_network_module"); !module.empty())
    return fmt::format("{} ({})",
                       module.starts_with("lycoris") ? "LyCORIS in kohya's sd-scripts" : "kohya's sd-scripts", module);
  if (auto implementation = value("modelspec.implementation"); !implementation.empty()) return implementation;
  if (!software.empty()) return software.substr(0, 100);
  if (metadata.contains("lora_adapter_metadata")) return "PEFT";
  if (lora.dialect == "cloneofsimo") return "cloneofsimo's lora";
  if (lora.dialect.starts_with("xlabs")) return "XLabs";
  if (lora.dialect.starts_with("lycoris")) return "LyCORIS around diffusers (SimpleTuner)";
  return "";
}

}  // namespace

Inspection inspect_lora(const std::filesystem::path& source, const ToolProgress& progress) {
  auto [lora, modules] = read_layers(source);
  auto hashing = std::async(std::launch::async, [file = lora.path] {
    return std::filesystem::is_directory(file) ? FileHashes() : hash_file(file);  // PEFT's folders: files of their own
  });
  Inspection inspection{.file = lora.source, .dialect = lora.dialect};
  inspection.trainer = trainer_of(lora);
  inspection.architecture = lora.architecture;
  inspection.known_by = known_by(lora);
  inspection.tensors = lora.state_dict.size() + lora.network_alphas.size();
  inspection.metadata = lora.state_dict.metadata;
  inspection.unmatched = lora.unmatched;
  inspection.notes = lora.notes;
  for (const auto& [key, tensor] : lora.state_dict) {
    ++inspection.dtypes[to_string(tensor.scalar_type())];
    inspection.bytes += tensor.nbytes();
  }
  for (const auto& embedding : lora.embeddings) inspection.words[embedding.word].push_back(embedding.component);

  inspection.layers = examine(modules, progress);
  inspection.algorithm = algorithm_of(inspection.layers);
  std::map<std::string, PublishedComponent> published;
  for (const auto& layer : inspection.layers) {
    auto known = [&](auto& component) { return component.name == layer.component; };
    if (std::any_of(inspection.components.begin(), inspection.components.end(), known)) continue;
    auto candidates = published_components(lora.architecture, layer.component);
    if (!candidates.empty())
      published[layer.component] = best_fit(std::move(candidates), inspection.layers, layer.component);
    auto model = published.find(layer.component);
    inspection.components.push_back(
        summary(layer.component, inspection.layers, model == published.end() ? nullptr : &model->second));
  }
  inspection.findings = check_layers(inspection.layers, published);
  if (!inspection.unmatched.empty()) {
    Inspection::Finding finding{true, fmt::format("{} keys are not understood", inspection.unmatched.size()), {}};
    for (const auto& [key, reason] : inspection.unmatched)
      finding.layers.push_back(fmt::format("{} ({})", key, reason));
    inspection.findings.push_back(std::move(finding));
  }
  inspection.hashes = hashing.get();
  if (inspection.hashes.changed())
    inspection.findings.push_back({true, "the tensors are not those that its metadata has the hash of", {}});
  return inspection;
}

size_t Inspection::problems() const {
  return static_cast<size_t>(std::count_if(findings.begin(), findings.end(), [](auto& f) { return f.problem; }));
}

}  // namespace lora
