#include <ATen/ATen.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <future>
#include <mutex>
#include <set>

#include "adapters/finite.h"
#include "core/check.h"
#include "core/edge.h"
#include "core/text.h"
#include "files/change.h"
#include "files/inspect_checks.h"
#include "files/layer_facts.h"
#include "files/progress.h"
#include "io/public_call.h"
#include "loaders/adapter_fields.h"
#include "nn/parallel.h"

namespace lora {

namespace {

using Component = Inspection::Component;
using Facts = Inspection::Layer;

// Of all that the layer adds, as one long vector: to the weight and to the bias.
double norm_of(const LoraLayer& layer) {
  auto change = change_of(layer);
  auto bias = bias_change_of(layer);
  return std::hypot(is_nothing(change) ? 0 : norm(change), bias.defined() ? bias.norm().item<double>() : 0);
}

Facts examined(const LoraLayer& layer) {
  auto facts = described(layer);
  if (!facts.error.empty()) return facts;
  try {
    facts.alpha = facts.rank > 0 ? alpha_of(layer) : strength_of(layer, 0).alpha;
    facts.norm = all_finite(layer) ? norm_of(layer) : NAN;
  } catch (const std::exception& error) {  // libtorch's are about sizes that do not go together
    if (is_out_of_memory(error)) throw;
    facts.error = message_of(error);
  }
  return facts;
}

std::vector<Facts> examine(const std::vector<LoraLayer>& given, const ToolProgress& progress) {
  std::vector<Facts> layers(given.size());
  std::atomic<int> done = 0;
  std::mutex telling;
  parallel_ranges(int64_t(given.size()), 1, [&](int64_t begin, int64_t end) {
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

// All tensors of the source: those of the file, understood or not. Of a folder with several files, and of layers in
// memory, those of the layers.
StateDict contents(const LoraSource& source, const LoraFile& file) {
  if (auto* tensors = source.state_dict()) return *tensors;
  if (std::filesystem::is_regular_file(file.path)) return load_state_dict(file.path);
  StateDict tensors;
  for (const auto& layer : file.layers)
    for (const auto& [suffix, tensor] : layer.tensors) {
      auto key = layer.keys.find(suffix);  // a key of several layers is of one tensor
      tensors.set(key == layer.keys.end() ? layer.name() + "." + suffix : key->second, tensor);
    }
  for (const auto& embedding : file.embeddings) tensors.set(embedding.key, embedding.vectors);
  return tensors;
}

// Keys of adapters that are not understood are missing from the effect. Other keys, such as a trainer's counters, have
// no effect.
void add_keys(const LoraFile& file, std::vector<Inspection::Finding>& findings) {
  std::set<std::string> parts;
  for (const auto& [key, reason] : file.left_out) parts.insert(key);
  std::vector<std::string> problems, remarks;
  for (const auto& [key, reason] : file.unmatched)
    (parts.contains(key) ? problems : remarks).push_back(fmt::format("{} ({})", key, reason));
  auto add = [&](bool problem, std::vector<std::string> keys, const char* what) {
    if (keys.empty()) return;
    auto text = fmt::format("{} {} {}", counted(keys.size(), "key"), keys.size() == 1 ? "is" : "are", what);
    findings.push_back({problem, std::move(text), std::move(keys)});
  };
  add(true, std::move(problems), "not understood, so a part of the effect is missing");
  add(false, std::move(remarks), "not understood, and no part of an adapter");
}

Inspection inspect(const LoraSource& source, const LoraFile& file, const ToolProgress& progress) {
  auto hashing = std::async(std::launch::async, [path = file.path] {
    // PEFT's folders have several files, tensors in memory have none.
    return std::filesystem::is_regular_file(path) ? hash_file(path) : FileHashes();
  });
  Inspection inspection{.file = file.source, .dialect = file.dialect};
  inspection.trainer = trainer_of(file);
  inspection.architecture = to_string(file.base_model);
  inspection.known_by = file.known_by;
  inspection.metadata = file.metadata;
  inspection.unmatched = file.unmatched;
  inspection.notes = file.notes;
  for (const auto& [key, tensor] : contents(source, file)) {
    ++inspection.tensors;
    ++inspection.dtypes[to_string(tensor.scalar_type())];
    inspection.bytes += tensor.nbytes();
  }
  for (const auto& embedding : file.embeddings) inspection.words[embedding.word].push_back(embedding.component);

  inspection.layers = examine(file.layers, progress);
  inspection.algorithm = algorithm_of(inspection.layers);
  PublishedModels models;
  auto published = published_for(inspection.layers, file.base_model, models);
  for (const auto& layer : inspection.layers) {
    auto known = [&](auto& component) { return component.name == layer.component; };
    if (std::any_of(inspection.components.begin(), inspection.components.end(), known)) continue;
    auto model = published.find(layer.component);
    inspection.components.push_back(
        summary(layer.component, inspection.layers, model == published.end() ? nullptr : model->second));
  }
  inspection.findings = check_layers(inspection.layers, published);
  if (auto contradiction = check_metadata(file))
    inspection.findings.insert(inspection.findings.begin(), *contradiction);
  add_keys(file, inspection.findings);
  inspection.hashes = hashing.get();
  // Programs that rewrite a file often keep the old hash, so a wrong one is no fault of the tensors.
  if (inspection.hashes.changed())
    inspection.findings.push_back({false, "the tensors are not those that its metadata has the hash of", {}});
  return inspection;
}

}  // namespace

Inspection inspect_lora(const LoraSource& source, const InspectOptions& options) {
  return public_call([&] {
    auto read = options.read;
    read.partial = PartialLora::allow;  // what is not understood is a finding
    return inspect(source, read_lora(source, read), as_callers(options.progress));
  });
}

}  // namespace lora
