#include "adapters/adapter.h"

#include <ATen/Parallel.h>
#include <re2/re2.h>

#include <algorithm>
#include <cmath>

#include "core/check.h"
#include "core/text.h"
#include "nn/deltas/lora.h"

namespace lora {

namespace {

// The tensors of one layer, by canonical suffix.
struct Group {
  std::string path;
  Tensor A, B;
};

// `down_blocks.0.conv1.lora_A.weight` is `down_blocks.0.conv1` and `lora_A.weight`.
std::pair<std::string, std::string> split_key(const std::string& key) {
  for (const char* suffix : {".lora_A.weight", ".lora_B.weight"})
    if (key.ends_with(suffix)) return {key.substr(0, key.size() - std::string_view(suffix).size()), suffix + 1};
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
    auto& slot = suffix == "lora_A.weight" ? result.groups[it->second].A : result.groups[it->second].B;
    slot = tensor;
  }
  return result;
}

std::string unmatched_reason(const Parts& parts, const std::string& path) {
  std::vector<std::string> paths;
  for (const auto& site : parts.sites) paths.push_back(site->path);
  auto near = nearest(path, paths);
  return near.empty() ? "the model has no such layer"
                      : fmt::format("the model has no such layer; the nearest is {}", near);
}

void check_halves(const std::vector<Group>& groups, const std::string& component) {
  std::vector<std::string> halves;
  for (const auto& g : groups)
    if (!g.A.defined() || !g.B.defined())
      halves.push_back(fmt::format("{} (no {})", g.path, g.A.defined() ? "lora_B/up" : "lora_A/down"));
  check(halves.empty(), ErrorKind::bad_key,
        "{}: {} layer(s) have one half of a pair: {}; the file is incomplete, nothing was loaded", component,
        halves.size(), listing(halves, 4));
}

}  // namespace

double LoraConfig::alpha(const std::string& path) const {
  for (const auto& [pattern, value] : alpha_pattern) {
    re2::RE2 expression("(.*\\.)?(" + pattern + ")", re2::RE2::Quiet);
    check(expression.ok(), ErrorKind::bad_file,
          "lora_adapter_metadata: alpha_pattern \"{}\" is no regular expression: {}", pattern, expression.error());
    if (re2::RE2::FullMatch(path, expression)) return value;
  }
  return lora_alpha;
}

Prepared prepare(const Parts& parts, const StateDict& tensors, const PrepareOptions& options) {
  Prepared result;
  result.report.name = options.component;
  auto grouped = group(tensors);
  result.unmatched = std::move(grouped.unmatched);
  check_halves(grouped.groups, options.component);

  std::vector<std::string> misfits;
  for (auto& g : grouped.groups) {
    auto found = parts.by_path.find(g.path);
    if (found == parts.by_path.end()) {
      result.unmatched.push_back({options.component + "." + g.path, unmatched_reason(parts, g.path)});
      continue;
    }
    try {
      auto [A, B] = LoraDelta::fit(*found->second, g.A, g.B, options.component + "." + g.path);
      auto r = A.size(0);
      auto given = options.alphas.find(g.path);
      double alpha = options.config                  ? options.config->alpha(g.path)
                     : given != options.alphas.end() ? given->second
                                                     : double(r);
      double scale = options.config && options.config->use_rslora ? alpha / std::sqrt(double(r)) : alpha / double(r);
      result.adapter.entries.push_back({found->second, std::make_shared<LoraDelta>(A, B, alpha, scale)});
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::bad_shape) throw;
      misfits.push_back(error.what());
    }
  }
  check(misfits.empty(), ErrorKind::bad_shape, "{} of {} layers do not fit the model, so nothing was loaded: {}",
        misfits.size(), grouped.groups.size(), listing(misfits, 3));

  auto& entries = result.adapter.entries;
  std::sort(entries.begin(), entries.end(), [](auto& a, auto& b) { return a.site->index < b.site->index; });
  at::parallel_for(0, int64_t(entries.size()), 16, [&](int64_t begin, int64_t end) {
    for (auto i = begin; i < end; ++i) {
      auto& [site, delta] = entries[i];
      delta = delta->to(site->weight.device(), site->weight.scalar_type());
    }
  });
  for (const auto& [site, delta] : entries)
    result.report.layers.push_back({.path = site->path,
                                    .algorithm = delta->algorithm(),
                                    .rank = delta->rank(),
                                    .alpha = delta->alpha(),
                                    .scale = delta->low_rank()->scale});
  return result;
}

}  // namespace lora
