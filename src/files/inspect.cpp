#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <future>
#include <mutex>

#include "adapters/finite.h"
#include "core/check.h"
#include "core/text.h"
#include "files/change.h"
#include "files/inspect_checks.h"
#include "files/progress.h"
#include "io/public_call.h"
#include "loaders/adapter_fields.h"
#include "names/base_model.h"

namespace lora {

namespace {

using Component = Inspection::Component;
using Facts = Inspection::Layer;

Facts examined(const LoraLayer& layer) {
  Facts facts{.component = layer.component, .path = layer.path, .kind = layer.kind};
  facts.incomplete = !missing_of(layer.tensors).empty();
  facts.depends_on_base = depends_on_base(layer.tensors);
  try {
    auto size = size_of(layer.tensors);
    facts.rank = rank_of(layer.tensors);
    facts.alpha = facts.rank > 0 ? alpha_of(layer) : strength_of(layer, 0).alpha;
    facts.rows = size.rows;
    facts.columns = size.columns;
    facts.convolution = !size.kernel.empty();
    facts.norm = all_finite(layer.tensors) ? norm(change_of(layer)) : NAN;
  } catch (const Error& error) {
    facts.error = error.what();
  }
  return facts;
}

std::vector<Facts> examine(const std::vector<LoraLayer>& given, const ToolProgress& progress) {
  std::vector<Facts> layers(given.size());
  std::atomic<int> done = 0;
  std::mutex telling;
  at::parallel_for(0, int64_t(given.size()), 1, [&](int64_t begin, int64_t end) {
    for (auto i = begin; i < end; ++i) {
      layers[i] = examined(given[i]);
      auto now = ++done;
      if (!progress) continue;
      std::lock_guard lock(telling);
      progress(now, int(given.size()));
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

std::string known_by(const LoraFile& file) {
  auto* row = row_of(file.base_model);
  if (!row) return "";
  if (file.cross_attention != 0) return fmt::format("its cross-attention takes text of width {}", file.cross_attention);
  bool has_names_of_its_own = !row->marks.empty() || !row->unet_marks.empty();
  return has_names_of_its_own ? "the names of its layers" : "its metadata says so";
}

std::string trainer_of(const LoraFile& file) {
  const auto& metadata = file.metadata;
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
  if (file.dialect == "cloneofsimo") return "cloneofsimo's lora";
  if (file.dialect.starts_with("xlabs")) return "XLabs";
  if (file.dialect.starts_with("lycoris")) return "LyCORIS around diffusers (SimpleTuner)";
  return "";
}

Inspection inspect(const LoraFile& file, const ToolProgress& progress) {
  auto hashing = std::async(std::launch::async, [path = file.path] {
    // PEFT's folders have several files, tensors in memory have none.
    return std::filesystem::is_regular_file(path) ? hash_file(path) : FileHashes();
  });
  Inspection inspection{.file = file.source, .dialect = file.dialect};
  inspection.trainer = trainer_of(file);
  inspection.architecture = to_string(file.base_model);
  inspection.known_by = known_by(file);
  inspection.metadata = file.metadata;
  inspection.unmatched = file.unmatched;
  inspection.notes = file.notes;
  for (const auto& layer : file.layers) {
    inspection.tensors += layer.tensors.size() + layer.keys.contains(kAlpha) + layer.keys.contains(kScale);
    for (const auto& [suffix, tensor] : layer.tensors) {
      ++inspection.dtypes[to_string(tensor.scalar_type())];
      inspection.bytes += tensor.nbytes();
    }
  }
  for (const auto& embedding : file.embeddings) inspection.words[embedding.word].push_back(embedding.component);

  inspection.layers = examine(file.layers, progress);
  inspection.algorithm = algorithm_of(inspection.layers);
  std::map<std::string, PublishedComponent> published;
  for (const auto& layer : inspection.layers) {
    auto known = [&](auto& component) { return component.name == layer.component; };
    if (std::any_of(inspection.components.begin(), inspection.components.end(), known)) continue;
    auto candidates = published_components(file.base_model, layer.component);
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

}  // namespace

Inspection inspect_lora(const LoraSource& source, const InspectOptions& options) {
  return public_call([&] { return inspect(read_lora(source, options.read), as_callers(options.progress)); });
}

}  // namespace lora
