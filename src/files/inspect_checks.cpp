#include "files/inspect_checks.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "core/text.h"
#include "dialects/base_model_of.h"
#include "dialects/evidence.h"

namespace lora {

namespace {

using Facts = Inspection::Layer;
using Finding = Inspection::Finding;

std::string name_of(const Facts& layer) { return layer.component + "." + layer.path; }

template <class Condition>
std::vector<std::string> names_where(const std::vector<Facts>& layers, Condition condition) {
  std::vector<std::string> names;
  for (const auto& layer : layers)
    if (condition(layer)) names.push_back(name_of(layer));
  return names;
}

enum class Is { problem, remark };

// "1 layer has half a pair", "2 layers have half a pair".
void find(std::vector<Finding>& findings, Is is, const char* one, const char* many, const std::string& what,
          std::vector<std::string> layers) {
  if (layers.empty()) return;
  auto text = fmt::format("{} {} {}", counted(layers.size(), "layer"), layers.size() == 1 ? one : many, what);
  findings.push_back({is == Is::problem, std::move(text), std::move(layers)});
}

bool is_zero(const Facts& layer) {
  return layer.norm == 0 && layer.error.empty() && !layer.incomplete && !layer.depends_on_base;
}

// Layers whose change of a matrix is out of all proportion, by the root mean square of its numbers: robust against the
// sizes of layers and, by the median, against the outliers themselves.
constexpr double kHuge = 30;
constexpr size_t kFewest = 8;  // layers of which a median says something

// Norms and biases are small vectors, and differences of them are large beside those of matrices.
bool is_matrix(const Facts& layer) { return layer.columns > 1; }

std::vector<std::string> huge(const std::vector<Facts>& layers) {
  auto size = [](const Facts& layer) {
    return layer.norm / std::sqrt(double(std::max<int64_t>(1, layer.rows) * std::max<int64_t>(1, layer.columns)));
  };
  std::map<std::string, std::vector<double>> sizes;  // by component
  for (const auto& layer : layers)
    if (is_matrix(layer) && layer.norm > 0 && std::isfinite(layer.norm)) sizes[layer.component].push_back(size(layer));
  std::map<std::string, double> most;
  for (auto& [component, all] : sizes) {
    auto middle = all.begin() + static_cast<ptrdiff_t>(all.size() / 2);
    std::nth_element(all.begin(), middle, all.end());
    most[component] = all.size() < kFewest ? INFINITY : kHuge * *middle;
  }
  return names_where(layers, [&](auto& layer) {
    auto limit = most.find(layer.component);
    return limit != most.end() && is_matrix(layer) && std::isfinite(layer.norm) && size(layer) > limit->second;
  });
}

// "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj": the block, up to and with transformer_blocks.0, and what
// is in it. Numbers inside a layer's own name are no blocks.
std::pair<std::string, std::string> block_of(const std::string& path) {
  auto parts = split(path, '.');
  size_t cut = 0;
  for (size_t i = 1; i + 1 < parts.size(); ++i)
    if (parts[i].find_first_not_of("0123456789") == parts[i].npos && parts[i - 1] != "net") cut = i + 1;
  std::vector<std::string> block(parts.begin(), parts.begin() + static_cast<ptrdiff_t>(cut));
  std::vector<std::string> leaf(parts.begin() + static_cast<ptrdiff_t>(cut), parts.end());
  return {join(block, "."), join(leaf, ".")};
}

std::string without_numbers(const std::string& path) {
  auto parts = split(path, '.');
  for (auto& part : parts)
    if (part.find_first_not_of("0123456789") == part.npos) part = "#";
  return join(parts, ".");
}

// What most blocks of a kind have, a block of that kind lacks, though the model has it there.
std::vector<std::string> gaps(const std::vector<Facts>& layers, const PublishedByComponent& published) {
  struct Kind {
    std::map<std::string, std::set<std::string>> blocks;  // what each has
    std::map<std::string, size_t> counts;                 // how many have it
  };
  std::map<std::string, Kind> kinds;
  for (const auto& layer : layers) {
    auto [block, leaf] = block_of(layer.path);
    if (block.empty() || !published.contains(layer.component)) continue;
    auto& kind = kinds[layer.component + "." + without_numbers(block)];
    kind.blocks[layer.component + "." + block].insert(leaf);
    ++kind.counts[leaf];
  }
  std::vector<std::string> missing;
  for (const auto& [name, kind] : kinds)
    for (const auto& [block, leaves] : kind.blocks)
      for (const auto& [leaf, count] : kind.counts) {
        auto component = block.substr(0, block.find('.'));
        auto path = block.substr(component.size() + 1) + "." + leaf;
        if (2 * count > kind.blocks.size() && !leaves.contains(leaf) && published.at(component)->layers.contains(path))
          missing.push_back(component + "." + path);
      }
  return missing;
}

void find_broken(std::vector<Finding>& findings, const std::vector<Facts>& layers) {
  find(findings, Is::problem, "has", "have", "one half of a pair of factors",
       names_where(layers, [](auto& layer) { return layer.incomplete; }));
  for (const auto& layer : layers)
    if (!layer.error.empty()) findings.push_back({true, layer.error, {name_of(layer)}});
}

void find_misfits(std::vector<Finding>& findings, const std::vector<Facts>& layers,
                  const PublishedByComponent& published) {
  for (const auto& [component, model] : published) {
    auto mine = [&](const Facts& layer) { return layer.component == component; };
    find(findings, Is::problem, "does", "do", fmt::format("not exist in {}", model->model),
         names_where(layers, [&](auto& layer) { return mine(layer) && !model->layers.contains(layer.path); }));
    find(findings, Is::problem, "has", "have", fmt::format("other sizes than in {}", model->model),
         names_where(layers, [&](auto& layer) {
           auto it = model->layers.find(layer.path);
           return mine(layer) && it != model->layers.end() && !fits(layer, it->second);
         }));
  }
}

}  // namespace

bool fits(const Facts& layer, const PublishedLayer& published) {
  if (published.shape.empty() || layer.rows == 0 || !layer.error.empty()) return true;
  auto rows = published.shape[0];
  int64_t columns = 1;
  for (size_t i = 1; i < published.shape.size(); ++i) columns *= published.shape[i];
  if (published.kind == SiteKind::embedding)
    std::swap(rows, columns);  // [words, width], whose factors give its transpose
  // The first layer of an inpainting model or of one for depths takes more channels than the published one.
  if (layer.path == "conv_in" || layer.path == "pos_embed.proj") return layer.rows == rows;
  return layer.rows == rows && (layer.columns == 0 || layer.columns == columns);
}

std::vector<Finding> check_layers(const std::vector<Facts>& layers, const PublishedByComponent& published) {
  std::vector<Finding> findings;
  find(findings, Is::problem, "has", "have", "NaN or infinite numbers",
       names_where(layers, [](auto& layer) { return !std::isfinite(layer.norm); }));
  find_broken(findings, layers);
  auto alpha_0 = [](const Facts& layer) { return layer.rank > 0 && layer.alpha == 0 && !layer.depends_on_base; };
  find(findings, Is::problem, "has", "have",
       "alpha 0, so the factors change nothing (kohya's own loader takes the rank in its place)",
       names_where(layers, alpha_0));
  find(findings, Is::remark, "has", "have", "a negative alpha or scale, and acts in the opposite direction",
       names_where(layers, [](auto& layer) { return layer.rank > 0 && layer.alpha < 0; }));
  auto zero = names_where(layers, [&](auto& layer) { return is_zero(layer) && !alpha_0(layer); });
  if (zero.size() == layers.size())
    find(findings, Is::problem, "changes", "change", "nothing, and the file has no others", std::move(zero));
  else
    find(findings, Is::remark, "changes", "change", "nothing: zeros, as before training", std::move(zero));
  // The rest is unusual, and sound files can have it: from training with a rate for each block, and from extraction.
  find(findings, Is::remark, "changes its weight", "change their weights",
       fmt::format("more than {} times as much as the median layer does (root mean square)", kHuge), huge(layers));
  find_misfits(findings, layers, published);
  find(findings, Is::remark, "is", "are", "missing that most blocks of this kind have", gaps(layers, published));
  return findings;
}

std::vector<Finding> check_sizes(const std::vector<Facts>& layers, const PublishedByComponent& published) {
  std::vector<Finding> findings;
  find_broken(findings, layers);
  find_misfits(findings, layers, published);
  return findings;
}

std::optional<Finding> check_metadata(const LoraFile& file) {
  auto said = model_said_by(file.metadata);
  if (!names_another(said, file.base_model)) return std::nullopt;
  return Finding{true,
                 fmt::format("the layers contradict the metadata, which says {} ({}: {})", to_string(said.model),
                             said.key, said.value),
                 {}};
}

}  // namespace lora
