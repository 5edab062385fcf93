#include "adapters/adapter.h"

#include <algorithm>

#include "adapters/finite.h"
#include "core/check.h"
#include "core/text.h"
#include "io/public_call.h"
#include "kinds/kinds.h"
#include "kinds/narrowing.h"
#include "nn/parallel.h"

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
        "{}: {} with one half of a pair: {}; the file is incomplete, nothing was loaded", component,
        counted(halves.size(), "layer"), listing(halves, 4));
}

void check_numbers(const std::vector<const LoraLayer*>& layers) {
  for (auto* layer : layers)
    for (const auto& [suffix, tensor] : layer->tensors) {
      const char* lack = lacks_numbers(tensor);
      check(!lack, ErrorKind::bad_file, "{}.{} is {}; a dense tensor with numbers is wanted; nothing was loaded",
            layer->path, suffix, lack ? lack : "");
    }
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

struct Made {
  std::shared_ptr<const Delta> delta;
  DtypeLoss loss;
};

// The delta of a layer. Its factors are rescaled first if the dtype of the site cannot hold them.
Made make_fitted(const LoraLayer& layer, const Site& site, const PrepareOptions& options) {
  auto delta = make(layer, site, options);
  const auto dtype = site.weight.scalar_type();
  const auto stored = delta->tensors();
  auto is_cast = [&](std::string_view suffix) {
    auto tensor = get(stored, suffix);
    return tensor.defined() && tensor.scalar_type() == dtype;
  };
  // The delta has a core folded in float32.
  auto plain = narrows(at::kFloat, dtype) ? kind_of(layer.tensors)->folded(layer) : layer;
  auto [tensors, loss] = fitted(std::move(plain.tensors), dtype, is_cast);
  if (!loss.rescaled) return {delta, loss};
  plain.tensors = std::move(tensors);
  return {make(plain, site, options), loss};
}

std::string wider_model(const std::string& dtypes) { return "open the model in " + dtypes; }

// What was passed over, and what will do nothing.
struct Passed {
  std::vector<std::string> not_finite, zero, negative;

  std::vector<std::string> notes(const std::string& component) const {
    std::vector<std::string> all;
    auto tell = [&](const std::vector<std::string>& layers, const char* one, const char* many) {
      if (!layers.empty())
        all.push_back(fmt::format("{}: {} {}: {}", component, counted(layers.size(), "layer"),
                                  layers.size() == 1 ? one : many, listing(layers, 4)));
    };
    tell(not_finite, "was skipped, because of NaN or infinity in it",
         "were skipped, because of NaN or infinity in them");
    tell(zero, "has an alpha or a scale of 0 and does nothing", "have an alpha or a scale of 0 and do nothing");
    tell(negative, "has a negative alpha or scale, and acts in the opposite direction",
         "have a negative alpha or scale, and act in the opposite direction");
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
  std::vector<DtypeLoss> losses(found.size());
  parallel_ranges(int64_t(found.size()), 16, [&](int64_t begin, int64_t end) {
    c10::NoGradGuard no_grad;
    for (auto i = begin; i < end; ++i) try {
        not_finite[i] = !all_finite(*found[i].second);
        if (not_finite[i]) continue;
        auto made = make_fitted(*found[i].second, *found[i].first, options);
        entries[i] = {found[i].first, std::move(made.delta)};
        losses[i] = std::move(made.loss);
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
  check(misfits.empty(), ErrorKind::bad_shape, "{} of {} not fit the model, so nothing was loaded: {}", misfits.size(),
        counted(layers.size(), "layer") + (misfits.size() == 1 ? " does" : " do"), listing(misfits, 3));
  std::map<std::string, DtypeLoss> losses_by_path;
  for (size_t i = 0; i < found.size(); ++i) {
    const auto& layer = *found[i].second;
    losses_by_path[layer.path] = std::move(losses[i]);
    if (not_finite[i]) passed.not_finite.push_back(layer.path);
    if (not_finite[i] || !kind_of(layer.tensors)->has_strength()) continue;
    auto strength = counted_strength(layer);
    if (strength && strength->value == 0) passed.zero.push_back(layer.path);
    if (strength && strength->value < 0) passed.negative.push_back(layer.path);
  }
  std::erase_if(entries, [](auto& entry) { return !entry.delta; });
  result.notes = passed.notes(options.component);
  for (const auto& note : tell_losses(losses_by_path, options.component, wider_model))
    result.notes.push_back(fmt::format("{}: {}", options.component, note));
  for (const auto& [site, delta] : entries)
    result.report.layers.push_back({.path = site->path,
                                    .algorithm = delta->algorithm(),
                                    .rank = delta->rank(),
                                    .alpha = delta->alpha(),
                                    .scale = delta->scale()});
  return result;
}

}  // namespace lora
