#include "tools/inspect.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/text.h"
#include "loaders/metadata.h"

namespace lora {

namespace {

// Reading needs to know the denoiser's name, nothing else of a pipeline.
class FileReader : public LoraBaseMixin {
  std::vector<Component> lora_components() const override { return {{"unet", nullptr}}; }
};

Inspection::Component& component_of(Inspection& inspection, const std::string& key) {
  auto name = key.substr(0, key.find('.'));
  for (auto& c : inspection.components)
    if (c.name == name) return c;
  return inspection.components.emplace_back(Inspection::Component{.name = name});
}

void count(std::vector<Inspection::Ranks>& ranks, int64_t rank, double alpha) {
  for (auto& row : ranks)
    if (row.rank == rank && row.alpha == alpha) {
      ++row.layers;
      return;
    }
  ranks.push_back({rank, alpha, 1});
}

// "DoRA", "LoRA with biases + full differences", …
std::string algorithm_of(const StateDict& tensors) {
  auto has = [&](std::initializer_list<std::string_view> suffixes) {
    return std::any_of(tensors.begin(), tensors.end(), [&](auto& entry) {
      return std::any_of(suffixes.begin(), suffixes.end(), [&](auto suffix) { return entry.first.ends_with(suffix); });
    });
  };
  std::vector<std::string> kinds;
  if (has({".lora_magnitude_vector", ".dora_scale"}))
    kinds.push_back("DoRA");
  else if (has({".lora_A.weight"}))
    kinds.push_back(has({".lora_B.bias"}) ? "LoRA with biases" : "LoRA");
  if (has({".diff", ".diff_b"})) kinds.push_back("full differences");
  return join(kinds, " + ");
}

}  // namespace

Inspection inspect_lora(const std::filesystem::path& source) {
  auto lora = FileReader().lora_state_dict(source);
  Inspection inspection{.file = lora.source, .dialect = lora.dialect, .algorithm = algorithm_of(lora.state_dict)};
  inspection.architecture = !lora.architecture.empty() ? lora.architecture
                            : lora.cross_attention != 0
                                ? fmt::format("a UNet with text embeddings of width {}", lora.cross_attention)
                                : "a base model that it does not tell";
  inspection.bytes = std::filesystem::file_size(lora.source);
  inspection.tensors = lora.state_dict.size() + lora.network_alphas.size();
  inspection.metadata = lora.state_dict.metadata;
  inspection.unmatched = lora.unmatched;
  inspection.notes = lora.notes;

  constexpr std::string_view kDown = ".lora_A.weight";
  std::map<std::string, std::optional<LoraConfig>> configs;
  for (const auto& [key, tensor] : lora.state_dict) {
    ++inspection.dtypes[to_string(tensor.scalar_type())];
    if (!key.ends_with(kDown) || tensor.dim() < 2) continue;
    auto& component = component_of(inspection, key);
    ++(tensor.dim() == 4 ? component.conv_layers : component.linear_layers);
    auto path = key.substr(0, key.size() - kDown.size());
    auto given = lora.network_alphas.find(path + ".alpha");
    auto [config, fresh] = configs.try_emplace(component.name);
    if (fresh) config->second = config_for(component.name, lora.state_dict.metadata, lora.source);
    double alpha = given != lora.network_alphas.end() ? given->second
                   : config->second                   ? config->second->alpha(path.substr(component.name.size() + 1))
                                                      : double(tensor.size(0));
    count(component.ranks, tensor.size(0), alpha);
  }
  for (auto& component : inspection.components)
    std::stable_sort(component.ranks.begin(), component.ranks.end(),
                     [](auto& a, auto& b) { return a.layers > b.layers; });
  return inspection;
}

std::string Inspection::text() const {
  std::vector<std::string> types;
  for (const auto& [dtype, n] : dtypes) types.push_back(fmt::format("{} ({} tensors)", dtype, n));
  auto text = fmt::format("{}\n  {} in the dialect {}, for {}\n  {:.1f} MB, {} tensors: {}\n", file, algorithm, dialect,
                          architecture, double(bytes) / 1e6, tensors, join(types, ", "));
  for (const auto& c : components) {
    text += fmt::format("  {}: {} linear and {} convolution layers\n", c.name, c.linear_layers, c.conv_layers);
    for (const auto& [rank, alpha, layers] : c.ranks)
      text += fmt::format("    rank {}, alpha {:g}: {} layers\n", rank, alpha, layers);
  }
  if (!unmatched.empty()) text += fmt::format("  not understood: {} keys\n", unmatched.size());
  for (size_t i = 0; i < unmatched.size() && i < 5; ++i)
    text += fmt::format("    {}: {}\n", unmatched[i].key, unmatched[i].reason);
  if (!metadata.empty()) text += "  metadata:\n";
  for (const auto& [key, value] : metadata) {
    auto line = value.substr(0, value.find('\n'));
    bool cut = line.size() < value.size() || line.size() > 100;
    text += fmt::format("    {}: {}{}\n", key, line.substr(0, 100), cut ? " …" : "");
  }
  for (const auto& note : notes) text += fmt::format("  note: {}\n", note);
  return text;
}

std::string Inspection::json() const {
  using nlohmann::json;
  json all{{"file", file},   {"dialect", dialect}, {"algorithm", algorithm}, {"architecture", architecture},
           {"bytes", bytes}, {"tensors", tensors}, {"dtypes", dtypes},       {"metadata", metadata},
           {"notes", notes}};
  all["components"] = json::object();
  for (const auto& c : components) {
    json ranks = json::array();
    for (const auto& [rank, alpha, layers] : c.ranks)
      ranks.push_back({{"rank", rank}, {"alpha", alpha}, {"layers", layers}});
    all["components"][c.name] = {{"linear_layers", c.linear_layers}, {"conv_layers", c.conv_layers}, {"ranks", ranks}};
  }
  all["unmatched"] = json::array();
  for (const auto& [key, reason] : unmatched) all["unmatched"].push_back({{"key", key}, {"reason", reason}});
  return all.dump(2);
}

}  // namespace lora
