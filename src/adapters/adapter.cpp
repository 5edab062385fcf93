#include "adapters/adapter.h"

#include <ATen/Parallel.h>
#include <re2/re2.h>

#include <algorithm>
#include <cctype>
#include <cmath>

#include "adapters/finite.h"
#include "adapters/make_delta.h"
#include "core/check.h"
#include "core/text.h"
#include "io/public_call.h"

namespace lora {

namespace {

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
    const char* lack = lacks_numbers(tensor);
    check(!lack, ErrorKind::bad_file, "{} is {}; a dense tensor with numbers is wanted; nothing was loaded", key,
          lack ? lack : "");
    auto [it, fresh] = where.emplace(path, result.groups.size());
    if (fresh) result.groups.push_back({.path = path, .tensors = {}});
    result.groups[it->second].tensors.set(std::string(suffix), without_inference(tensor));
  }
  // A whole weight (PEFT's modules_to_save) is no adapter; IA3's has on_input beside it.
  std::erase_if(result.groups, [&](Group& g) {
    if (!g.has("weight") || g.has("on_input")) return false;
    result.unmatched.push_back({g.path + ".weight", "a whole weight, which no adapter has"});
    return g.tensors.size() == 1;
  });
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

void check_whole(const std::vector<Group>& groups, const std::string& component) {
  std::vector<std::string> halves;
  for (const auto& g : groups)
    if (auto missing = missing_part(g); !missing.empty()) halves.push_back(fmt::format("{} ({})", g.path, missing));
  check(halves.empty(), ErrorKind::bad_key,
        "{}: {} layer(s) have one half of a pair: {}; the file is incomplete, nothing was loaded", component,
        halves.size(), listing(halves, 4));
}

bool has_rank_zero(const Group& g) {
  return std::any_of(g.tensors.begin(), g.tensors.end(), [](auto& t) { return t.second.numel() == 0; });
}

bool is_finite(const Group& g) {
  for (const auto& [suffix, tensor] : g.tensors)
    if (!all_finite(tensor)) return false;
  return true;
}

// What was passed over, and what will do nothing.
struct Passed {
  std::vector<std::string> rank_zero, not_finite, alpha_zero;

  std::vector<std::string> notes(const std::string& component) const {
    std::vector<std::string> all;
    auto tell = [&](const std::vector<std::string>& layers, const char* what) {
      if (!layers.empty())
        all.push_back(fmt::format("{}: {} layer(s) {}: {}", component, layers.size(), what, listing(layers, 4)));
    };
    tell(rank_zero, "of rank 0 were passed over");
    tell(not_finite, "hold NaN or infinity, are not finite, and were passed over");
    tell(alpha_zero, "have an alpha of 0 and do nothing");
    return all;
  }
};

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

namespace {

bool matches_expression(std::string_view path, const std::string& pattern) {
  re2::RE2 expression(pattern, re2::RE2::Quiet);
  check(expression.ok(), ErrorKind::bad_file, "lora_adapter_metadata: \"{}\" is no regular expression: {}", pattern,
        expression.error());
  return re2::RE2::FullMatch(path, expression);
}

// PEFT's rule: `(.*\.)?(pattern)` is the whole path. Most patterns are paths themselves, one a layer, and compared as
// such: making an expression of each, for each layer, would take seconds.
bool matches(std::string_view path, const std::string& pattern) {
  std::string_view name = pattern;
  bool anchored = name.starts_with('^');
  if (anchored) name.remove_prefix(1);
  bool is_path =
      std::all_of(name.begin(), name.end(), [](unsigned char c) { return std::isalnum(c) || c == '_' || c == '.'; });
  if (!is_path) return matches_expression(path, "(.*\\.)?(" + pattern + ")");
  if (path.size() < name.size()) return false;
  auto before = path.size() - name.size();
  if (before > 0 && (anchored || path[before - 1] != '.')) return false;
  return std::equal(name.begin(), name.end(), path.begin() + before, [](char a, char b) { return a == b || a == '.'; });
}

double by_pattern(const std::vector<std::pair<std::string, double>>& patterns, const std::string& path,
                  double otherwise) {
  // transformers 5 has no text_model level, and anchored patterns are written without it.
  constexpr std::string_view kLevel = "text_model.";
  auto shorter = path.starts_with(kLevel) ? path.substr(kLevel.size()) : path;
  for (const auto& [pattern, value] : patterns)
    if (matches(path, pattern) || matches(shorter, pattern)) return value;
  return otherwise;
}

}  // namespace

double LoraConfig::alpha(const std::string& path) const { return by_pattern(alpha_pattern, path, lora_alpha); }

double LoraConfig::rank(const std::string& path) const { return by_pattern(rank_pattern, path, r); }

bool LoraConfig::is_feedforward(const std::string& path) const {
  if (!feedforward_pattern.empty()) return matches_expression(path, feedforward_pattern);
  return std::any_of(feedforward_modules.begin(), feedforward_modules.end(),
                     [&](auto& name) { return path.ends_with(name); });
}

Prepared prepare(const Parts& parts, const StateDict& tensors, const PrepareOptions& options) {
  Prepared result;
  result.report.name = options.component;
  auto grouped = group(tensors);
  result.unmatched = std::move(grouped.unmatched);
  check_whole(grouped.groups, options.component);
  Passed passed;

  std::vector<std::pair<Site*, const Group*>> found;
  std::vector<std::string> paths;  // for the first layer that the model has not
  for (const auto& g : grouped.groups) {
    if (has_rank_zero(g)) {
      passed.rank_zero.push_back(g.path);
      continue;
    }
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
  std::vector<std::exception_ptr> errors(found.size());
  std::vector<char> not_finite(found.size());
  at::parallel_for(0, int64_t(found.size()), 16, [&](int64_t begin, int64_t end) {
    c10::NoGradGuard no_grad;
    for (auto i = begin; i < end; ++i) try {
        not_finite[i] = !is_finite(*found[i].second);
        if (not_finite[i]) continue;
        entries[i] = {found[i].first, make_delta(*found[i].second, *found[i].first, options)};
      } catch (...) {
        errors[i] = std::current_exception();
      }
  });
  std::vector<std::string> misfits;
  for (const auto& thrown : errors) {
    if (!thrown) continue;
    try {
      std::rethrow_exception(thrown);
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::bad_shape) throw;
      misfits.push_back(error.what());
    }
  }
  check(misfits.empty(), ErrorKind::bad_shape, "{} of {} layers do not fit the model, so nothing was loaded: {}",
        misfits.size(), grouped.groups.size(), listing(misfits, 3));
  for (size_t i = 0; i < found.size(); ++i)
    if (not_finite[i]) passed.not_finite.push_back(found[i].second->path);
  std::erase_if(entries, [](auto& entry) { return !entry.delta; });
  for (const auto& [site, delta] : entries)
    if (delta->rank() > 0 && delta->scale() == 0) passed.alpha_zero.push_back(site->path);
  result.notes = passed.notes(options.component);
  for (const auto& [site, delta] : entries)
    result.report.layers.push_back({.path = site->path,
                                    .algorithm = delta->algorithm(),
                                    .rank = delta->rank(),
                                    .alpha = delta->alpha(),
                                    .scale = delta->scale()});
  return result;
}

}  // namespace lora
