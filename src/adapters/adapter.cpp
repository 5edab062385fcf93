#include "adapters/adapter.h"

#include <ATen/Parallel.h>

#include <algorithm>

#include "adapters/finite.h"
#include "core/check.h"
#include "core/text.h"
#include "io/public_call.h"
#include "kinds/kinds.h"

namespace lora {

namespace {

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

void check_whole(const std::vector<const LoraLayer*>& layers, const std::string& component) {
  std::vector<std::string> halves;
  for (auto* layer : layers)
    if (auto missing = missing_of(layer->tensors); !missing.empty())
      halves.push_back(fmt::format("{} ({})", layer->path, missing));
  check(halves.empty(), ErrorKind::bad_key,
        "{}: {} layer(s) have one half of a pair: {}; the file is incomplete, nothing was loaded", component,
        halves.size(), listing(halves, 4));
}

void check_numbers(const std::vector<const LoraLayer*>& layers) {
  for (auto* layer : layers)
    for (const auto& [suffix, tensor] : layer->tensors) {
      const char* lack = lacks_numbers(tensor);
      check(!lack, ErrorKind::bad_file, "{}.{} is {}; a dense tensor with numbers is wanted; nothing was loaded",
            layer->path, suffix, lack ? lack : "");
    }
}

bool has_rank_zero(const LoraLayer& layer) {
  return std::any_of(layer.tensors.begin(), layer.tensors.end(), [](auto& t) { return t.second.numel() == 0; });
}

std::shared_ptr<const Delta> make(const LoraLayer& layer, const Site& site, const PrepareOptions& options) {
  MakeOptions how{.base = [&](const Site& s) { return options.base ? options.base(s) : s.weight; },
                  .base_bias = [&](const Site& s) { return options.base_bias ? options.base_bias(s) : s.bias; },
                  .label = options.component + "." + layer.path};
  bool plain =
      std::none_of(layer.tensors.begin(), layer.tensors.end(), [](auto& t) { return t.second.is_inference(); });
  if (plain) return make_delta(layer, site, how);
  auto copy = layer;
  for (auto& [suffix, tensor] : copy.tensors) tensor = without_inference(tensor);
  return make_delta(copy, site, how);
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
    tell(rank_zero, "of rank 0 were skipped");
    tell(not_finite, "were skipped: they contain NaN or infinity");
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

Prepared prepare(const Parts& parts, const std::vector<const LoraLayer*>& layers, const PrepareOptions& options) {
  Prepared result;
  result.report.name = options.component;
  check_numbers(layers);
  check_whole(layers, options.component);
  Passed passed;

  std::vector<std::pair<Site*, const LoraLayer*>> found;
  std::vector<std::string> paths;  // for the first layer that the model does not have
  for (auto* layer : layers) {
    if (has_rank_zero(*layer)) {
      passed.rank_zero.push_back(layer->path);
      continue;
    }
    auto it = parts.by_path.find(layer->path);
    if (it != parts.by_path.end()) {
      found.emplace_back(it->second, layer);
      continue;
    }
    if (paths.empty()) paths = paths_of(parts);
    result.unmatched.push_back({options.component + "." + layer->path, unmatched_reason(paths, layer->path)});
  }
  std::sort(found.begin(), found.end(), [](auto& a, auto& b) { return a.first->index < b.first->index; });

  auto& entries = result.adapter.entries;
  entries.resize(found.size());
  std::vector<std::exception_ptr> errors(found.size());
  std::vector<char> not_finite(found.size());
  at::parallel_for(0, int64_t(found.size()), 16, [&](int64_t begin, int64_t end) {
    c10::NoGradGuard no_grad;
    for (auto i = begin; i < end; ++i) try {
        not_finite[i] = !all_finite(found[i].second->tensors);
        if (not_finite[i]) continue;
        entries[i] = {found[i].first, make(*found[i].second, *found[i].first, options)};
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
        misfits.size(), layers.size(), listing(misfits, 3));
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
