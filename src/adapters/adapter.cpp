#include "adapters/adapter.h"

#include <ATen/Parallel.h>
#include <re2/re2.h>

#include <algorithm>
#include <cmath>

#include "core/check.h"
#include "core/text.h"
#include "nn/deltas/diff.h"
#include "nn/deltas/dora.h"
#include "nn/deltas/lora.h"

namespace lora {

namespace {

constexpr std::string_view kSuffixes[] = {"lora_A.weight", "lora_B.weight", "lora_B.bias", "lora_magnitude_vector",
                                          "dora_scale",    "diff",          "diff_b"};

// The tensors of one layer, by canonical suffix.
struct Group {
  std::string path;
  std::map<std::string_view, Tensor> tensors;

  Tensor get(std::string_view suffix) const {
    auto it = tensors.find(suffix);
    return it == tensors.end() ? Tensor() : it->second;
  }
};

// `down_blocks.0.conv1.lora_A.weight` is `down_blocks.0.conv1` and `lora_A.weight`.
std::pair<std::string, std::string_view> split_key(const std::string& key) {
  for (auto suffix : kSuffixes)
    if (key.size() > suffix.size() && key.ends_with(suffix) && key[key.size() - suffix.size() - 1] == '.')
      return {key.substr(0, key.size() - suffix.size() - 1), suffix};
  return {key, ""};
}

struct Grouped {
  std::vector<Group> groups;  // in the order of the file
  std::vector<LoadReport::Unmatched> unmatched;
};

Grouped group(const StateDict& tensors) {
  Grouped result;
  std::unordered_map<std::string, size_t> where;
  for (const auto& [key, tensor] : tensors) {
    auto [path, suffix] = split_key(key);
    if (suffix.empty()) {
      result.unmatched.push_back({key, "this kind of tensor is not one that the adapters here have"});
      continue;
    }
    auto [it, fresh] = where.emplace(path, result.groups.size());
    if (fresh) result.groups.push_back({.path = path});
    result.groups[it->second].tensors[suffix] = tensor;
  }
  return result;
}

std::vector<std::string> paths_of(const Parts& parts) {
  std::vector<std::string> paths;
  for (const auto& site : parts.sites) paths.push_back(site->path);
  return paths;
}

std::string unmatched_reason(const std::vector<std::string>& paths, const std::string& path) {
  auto near = nearest(path, paths);
  return near.empty() ? "the model has no such layer"
                      : fmt::format("the model has no such layer; the nearest is {}", near);
}

void check_halves(const std::vector<Group>& groups, const std::string& component) {
  std::vector<std::string> halves;
  for (const auto& g : groups) {
    bool A = g.get("lora_A.weight").defined(), B = g.get("lora_B.weight").defined();
    bool needs_both = A || B || !(g.get("diff").defined() || g.get("diff_b").defined());
    if (needs_both && !(A && B))
      halves.push_back(fmt::format("{} (no {})", g.path, A ? "lora_B/up" : B ? "lora_A/down" : "lora_A and lora_B"));
  }
  check(halves.empty(), ErrorKind::bad_key,
        "{}: {} layer(s) have one half of a pair: {}; the file is incomplete, nothing was loaded", component,
        halves.size(), listing(halves, 4));
}

// One layer's delta, in the site's dtype and on its device.
std::shared_ptr<const Delta> make_delta(const Group& g, const Site& site, const PrepareOptions& options) {
  auto label = options.component + "." + g.path;
  auto device = site.weight.device();
  auto dtype = site.weight.scalar_type();
  auto A = g.get("lora_A.weight");
  if (!A.defined()) return DiffDelta(site, g.get("diff"), g.get("diff_b"), label).to(device, dtype);
  check(!g.get("diff").defined(), ErrorKind::unsupported, "{}: both low-rank factors and a full difference", label);

  auto bias = g.get("lora_B.bias");
  auto factors = LoraFactors::fit(site, A, g.get("lora_B.weight"), bias.defined() ? bias : g.get("diff_b"), label);
  auto r = double(factors.rank());
  auto given = options.alphas.find(g.path);
  factors.alpha = options.config ? options.config->alpha(g.path) : given != options.alphas.end() ? given->second : r;
  factors.scale = factors.alpha / (options.config && options.config->use_rslora ? std::sqrt(r) : r);
  // kohya's diff_b is added as it is, PEFT's bias with the scale of the factors.
  if (!bias.defined() && factors.bias.defined()) factors.bias = factors.bias / factors.scale;
  factors = factors.to(device, dtype);

  auto magnitude = g.get("lora_magnitude_vector"), dora_scale = g.get("dora_scale");
  if (!magnitude.defined() && !dora_scale.defined()) return std::make_shared<LoraDelta>(std::move(factors));
  check(site.kind == SiteKind::linear || site.kind == SiteKind::conv2d, ErrorKind::unsupported,
        "{}: DoRA on a layer that is neither linear nor a convolution", label);
  auto base = options.base ? options.base(site) : site.weight;
  if (magnitude.defined()) return std::make_shared<PeftDoraDelta>(std::move(factors), magnitude, base, label);
  return std::make_shared<LycorisDoraDelta>(std::move(factors), dora_scale, base, label);
}

}  // namespace

bool SiteWeights::none() const {
  return by_site.empty() ? number == 0 : std::all_of(by_site.begin(), by_site.end(), [](double w) { return w == 0; });
}

SiteWeights SiteWeights::operator*(double factor) const {
  auto scaled = *this;
  scaled.number *= factor;
  for (auto& w : scaled.by_site) w *= factor;
  return scaled;
}

double LoraConfig::alpha(const std::string& path) const {
  // transformers 5 has no text_model level, and anchored patterns are written without it.
  constexpr std::string_view kLevel = "text_model.";
  auto shorter = path.starts_with(kLevel) ? path.substr(kLevel.size()) : path;
  for (const auto& [pattern, value] : alpha_pattern) {
    re2::RE2 expression("(.*\\.)?(" + pattern + ")", re2::RE2::Quiet);
    check(expression.ok(), ErrorKind::bad_file,
          "lora_adapter_metadata: alpha_pattern \"{}\" is no regular expression: {}", pattern, expression.error());
    if (re2::RE2::FullMatch(path, expression) || re2::RE2::FullMatch(shorter, expression)) return value;
  }
  return lora_alpha;
}

Prepared prepare(const Parts& parts, const StateDict& tensors, const PrepareOptions& options) {
  Prepared result;
  result.report.name = options.component;
  auto grouped = group(tensors);
  result.unmatched = std::move(grouped.unmatched);
  check_halves(grouped.groups, options.component);

  std::vector<std::pair<Site*, const Group*>> found;
  std::vector<std::string> paths;  // for the first layer that the model has not
  for (const auto& g : grouped.groups) {
    auto it = parts.by_path.find(g.path);
    if (it != parts.by_path.end()) {
      found.emplace_back(it->second, &g);
      continue;
    }
    if (paths.empty()) paths = paths_of(parts);
    result.unmatched.push_back({options.component + "." + g.path, unmatched_reason(paths, g.path)});
  }
  std::sort(found.begin(), found.end(), [](auto& a, auto& b) { return a.first->index < b.first->index; });

  auto& entries = result.adapter.entries;
  entries.resize(found.size());
  std::vector<std::optional<Error>> errors(found.size());
  at::parallel_for(0, int64_t(found.size()), 16, [&](int64_t begin, int64_t end) {
    for (auto i = begin; i < end; ++i) try {
        entries[i] = {found[i].first, make_delta(*found[i].second, *found[i].first, options)};
      } catch (const Error& error) {
        errors[i] = error;
      }
  });
  std::vector<std::string> misfits;
  for (const auto& error : errors) {
    if (!error) continue;
    if (error->kind() != ErrorKind::bad_shape) throw *error;
    misfits.push_back(error->what());
  }
  check(misfits.empty(), ErrorKind::bad_shape, "{} of {} layers do not fit the model, so nothing was loaded: {}",
        misfits.size(), grouped.groups.size(), listing(misfits, 3));
  for (const auto& [site, delta] : entries)
    result.report.layers.push_back({.path = site->path,
                                    .algorithm = delta->algorithm(),
                                    .rank = delta->rank(),
                                    .alpha = delta->alpha(),
                                    .scale = delta->scale()});
  return result;
}

}  // namespace lora
