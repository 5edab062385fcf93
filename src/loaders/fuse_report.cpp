// FuseReport as text and as JSON.
#include "lora/fuse_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "core/text.h"
#include "lora/state_dict.h"

namespace lora {

namespace {

constexpr size_t kListed = 4;

// "3.5 %", "42 %". What float32 loses of a usual change is told as 0 %.
std::string percent(double share) {
  if (share < 0.0005) return "0 %";
  return share < 0.0995 ? fmt::format("{:.2g} %", 100 * share) : fmt::format("{:.0f} %", 100 * share);
}

std::string layers(size_t count) { return fmt::format("{} {}", count, count == 1 ? "layer" : "layers"); }

// "unet.a (92 %), unet.b (90 %)": the layers for which `is` holds, the greatest loss first.
template <class Is>
std::vector<std::string> worst(const FuseReport& report, const Is& is) {
  std::vector<const FuseReport::Layer*> some;
  for (const auto& layer : report.layers)
    if (is(layer)) some.push_back(&layer);
  std::stable_sort(some.begin(), some.end(), [](auto* a, auto* b) { return a->lost > b->lost; });
  std::vector<std::string> names;
  for (auto* layer : some)
    names.push_back(fmt::format("{}.{} ({})", layer->component, layer->path, percent(layer->lost)));
  return names;
}

bool is_finite(const FuseReport::Layer& layer) { return !layer.stays_active && layer.not_finite == 0; }

// What the fuse does to the layers whose numbers are finite.
std::string measured(const FuseReport& report) {
  const auto finite = size_t(std::count_if(report.layers.begin(), report.layers.end(), is_finite));
  if (finite == 0) return "the result has NaN or infinity";
  const auto where = finite < report.fused() ? fmt::format(" in the {} without NaN or infinity", layers(finite)) : "";
  if (report.change == 0) return "the change of the weights is 0" + where;
  return fmt::format("the rounding loses {} of the change{} (rms change / weight {:.2g})", percent(report.lost), where,
                     report.change);
}

}  // namespace

size_t FuseReport::stays_active() const {
  return size_t(std::count_if(layers.begin(), layers.end(), [](auto& layer) { return layer.stays_active; }));
}

size_t FuseReport::unchanged() const {
  return size_t(std::count_if(layers.begin(), layers.end(), [](auto& layer) { return layer.unchanged; }));
}

size_t FuseReport::fused() const { return layers.size() - stays_active(); }

std::string FuseReport::text() const {
  std::set<std::string> dtypes;
  for (const auto& layer : layers)
    if (!layer.stays_active) dtypes.insert(to_string(layer.dtype));
  auto text = fmt::format("{} of {}: {}\n", lora::layers(fused()), join({dtypes.begin(), dtypes.end()}, " and "),
                          measured(*this));
  if (fused() == 0) text = "no layer is fused\n";
  auto lossy = worst(*this, [](auto& layer) { return is_finite(layer) && percent(layer.lost) != percent(0); });
  if (!lossy.empty()) text += fmt::format("  most in: {}\n", listing(lossy, kListed));
  auto active = worst(*this, [](auto& layer) { return layer.stays_active; });
  if (!active.empty())
    text += fmt::format("  not fused, but active: {}: {}\n", lora::layers(active.size()), listing(active, kListed));
  std::vector<std::string> broken;
  for (const auto& layer : layers)
    if (layer.not_finite > 0 && !layer.stays_active)
      broken.push_back(fmt::format("{}.{} ({} of its numbers)", layer.component, layer.path, layer.not_finite));
  if (!broken.empty())
    text += fmt::format("  NaN or infinite: {}: {}\n", lora::layers(broken.size()), listing(broken, kListed));
  return text;
}

std::string FuseReport::json() const {
  using nlohmann::json;
  json all{{"fused", fused()}, {"stays_active", stays_active()}, {"unchanged", unchanged()}, {"change", change},
           {"lost", lost},     {"not_finite", not_finite},       {"layers", json::array()}};
  for (const auto& layer : layers)
    all["layers"].push_back({{"component", layer.component},
                             {"path", layer.path},
                             {"dtype", to_string(layer.dtype)},
                             {"change", layer.change},
                             {"lost", layer.lost},
                             {"not_finite", layer.not_finite},
                             {"stays_active", layer.stays_active},
                             {"unchanged", layer.unchanged}});
  return all.dump(2);
}

}  // namespace lora
