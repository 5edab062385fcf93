// Results as text for people and as JSON for programs.
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/escape.h"
#include "core/text.h"
#include "core/utf8.h"
#include "io/json_text.h"
#include "lora/files.h"

namespace lora {

namespace {

std::string coverage(const Inspection::Component& c) {
  auto layers = c.linear_layers + c.conv_layers;
  if (c.of == 0) return fmt::format("{} of {}", counted(layers, "layer"), c.name);
  auto percent = 100.0 * double(c.covered) / double(c.of);
  return fmt::format("{} of {} layers of {} ({:.0f} %)", c.covered, c.of, c.model, percent);
}

std::string row(const char* name, const std::string& text) {
  return text.empty() ? "" : line("  {:<11} {}", name, text);
}

std::string first_line(const std::string& text, size_t most) {
  auto first = first_characters(std::string_view(text).substr(0, text.find('\n')), most);
  return std::string(first) + (first.size() < text.size() ? " …" : "");
}

std::string component_text(const Inspection::Component& c) {
  std::vector<std::string> kinds;
  for (const auto& [kind, n] : c.kinds) kinds.push_back(fmt::format("{} {}", n, kind));
  auto text = line("  {}: {}; {} linear, {} convolution: {}", c.name, coverage(c), c.linear_layers, c.conv_layers,
                   join(kinds, ", "));
  constexpr size_t kMost = 8;
  for (size_t i = 0; i < c.ranks.size() && i < kMost; ++i)
    text += line("    rank {}, alpha {:g}: {}", c.ranks[i].rank, c.ranks[i].alpha, counted(c.ranks[i].layers, "layer"));
  if (c.ranks.size() > kMost) text += line("    … {} pairs of rank and alpha in all", c.ranks.size());
  return text;
}

std::string hashes_text(const FileHashes& hashes) {
  if (hashes.file.empty()) return "";
  auto text = row("SHA-256", hashes.file);
  text += row("AutoV2", hashes.auto_v2() + (hashes.data.empty() ? "" : ", AutoV3 " + hashes.auto_v3()));
  if (!hashes.data.empty() && !hashes.claims.contains("sshs_model_hash")) text += row("hash", "none in the metadata");
  for (const auto& [key, verdict] : hashes.claims) text += line("  {} {}", key, verdict);
  return text;
}

// A number that JSON can say.
nlohmann::json finite(double x) { return std::isfinite(x) ? nlohmann::json(x) : nlohmann::json(nullptr); }

}  // namespace

size_t Inspection::problems() const {
  return static_cast<size_t>(std::count_if(findings.begin(), findings.end(), [](auto& f) { return f.problem; }));
}

std::string Inspection::verdict() const {
  std::vector<std::string> parts;
  for (const auto& c : components) parts.push_back(coverage(c));
  auto n = problems();
  // Only what was compared with the layers of a published model is called fine.
  bool checked = std::all_of(components.begin(), components.end(), [](auto& c) { return !c.model.empty(); });
  auto state = n == 1 ? "1 problem" : n > 1 ? fmt::format("{} problems", n) : checked ? "fine" : "no problem in itself";
  if (!checked) state += ", but no model's layers are known here to compare it with";
  return fmt::format("{} for {}, {}: {}: {}", algorithm, architecture.empty() ? "an unknown base model" : architecture,
                     dialect, join(parts, ", "), state);
}

std::string Inspection::text() const {
  std::vector<std::string> types;
  for (const auto& [dtype, n] : dtypes) types.push_back(fmt::format("{} {}", n, dtype));
  auto text = line("{}", verdict());
  for (const auto& finding : findings)
    text += line("  {}: {}{}", finding.problem ? "problem" : "remark", finding.what,
                 finding.layers.empty() ? "" : ": " + listing(finding.layers, 3));
  text += row("file", fmt::format("{}, {:.1f} MB, {}: {}", file, double(bytes) / 1e6, counted(tensors, "tensor"),
                                  join(types, ", ")));
  text += row("base model", known_by.empty() || architecture.empty() ? architecture + known_by
                                                                     : fmt::format("{}: {}", architecture, known_by));
  text += row("trainer", trainer);
  for (const auto& c : components) text += component_text(c);
  for (const auto& [word, encoders] : words)
    text += line("  brings the word \"{}\" for {}", word, join(encoders, ", "));
  text += hashes_text(hashes);
  if (!metadata.empty()) text += "  metadata:\n";
  for (const auto& [key, value] : metadata) text += line("    {}: {}", key, first_line(value, 100));
  for (const auto& note : notes) text += line("  note: {}", note);
  return text;
}

std::string Inspection::json() const {
  using nlohmann::json;
  json all{{"verdict", verdict()}, {"problems", problems()}, {"file", file},
           {"dialect", dialect},   {"algorithm", algorithm}, {"architecture", architecture},
           {"known_by", known_by}, {"trainer", trainer},     {"bytes", bytes},
           {"tensors", tensors},   {"dtypes", dtypes},       {"metadata", metadata},
           {"words", words},       {"notes", notes}};
  all["components"] = json::object();
  for (const auto& c : components) {
    json ranks = json::array();
    for (const auto& [rank, alpha, n] : c.ranks) ranks.push_back({{"rank", rank}, {"alpha", alpha}, {"layers", n}});
    all["components"][c.name] = {{"linear_layers", c.linear_layers},
                                 {"conv_layers", c.conv_layers},
                                 {"kinds", c.kinds},
                                 {"ranks", ranks},
                                 {"model", c.model},
                                 {"covered", c.covered},
                                 {"of", c.of}};
  }
  all["layers"] = json::array();
  for (const auto& layer : layers)
    all["layers"].push_back({{"component", layer.component},
                             {"path", layer.path},
                             {"kind", layer.kind},
                             {"incomplete", layer.incomplete},
                             {"depends_on_base", layer.depends_on_base},
                             {"rank", layer.rank},
                             {"alpha", layer.alpha},
                             {"convolution", layer.convolution},
                             {"rows", layer.rows},
                             {"columns", layer.columns},
                             {"norm", finite(layer.norm)},
                             {"error", layer.error}});
  all["hashes"] = {{"sha256", hashes.file},
                   {"data_sha256", hashes.data},
                   {"AutoV2", hashes.auto_v2()},
                   {"AutoV3", hashes.auto_v3()},
                   {"claims", hashes.claims}};
  all["findings"] = json::array();
  for (const auto& finding : findings)
    all["findings"].push_back({{"problem", finding.problem}, {"what", finding.what}, {"layers", finding.layers}});
  all["unmatched"] = json::array();
  for (const auto& [key, reason] : unmatched) all["unmatched"].push_back({{"key", key}, {"reason", reason}});
  return json_text(all);
}

std::string Comparison::summary() const {
  if (rows.empty())
    return fmt::format("no layer in common: {} only in the first, {} only in the second", only_in_a.size(),
                       only_in_b.size());
  std::vector<double> cosines;
  for (const auto& row : rows)
    if (!std::isnan(row.cosine)) cosines.push_back(row.cosine);
  if (cosines.empty()) return fmt::format("{} in common, but none can be compared", counted(rows.size(), "layer"));
  auto [low, high] = std::minmax_element(cosines.begin(), cosines.end());
  return fmt::format(
      "{} in common: cosine {:.6f} together ({:.6f} to {:.6f} by layer), norm ratio {:.6f}; {} only in the first, {} "
      "only in the second",
      counted(rows.size(), "layer"), cosine, *low, *high, ratio, only_in_a.size(), only_in_b.size());
}

std::string Comparison::text() const {
  auto text = line("{}", summary()) + line("  first:  {}", a) + line("  second: {}", b);
  if (!rows.empty()) text += "    cosine     ratio\n";
  for (const auto& [layer, c, r, note] : rows)
    text += std::isnan(c) ? line("         –         –  {} ({})", layer, note)
                          : line("  {:8.6f}  {:8.5g}  {}{}", c, r, layer, note.empty() ? "" : " (" + note + ")");
  for (const auto& layer : only_in_a) text += line("  only in the first:  {}", layer);
  for (const auto& layer : only_in_b) text += line("  only in the second: {}", layer);
  for (const auto& note : notes) text += line("  note: {}", note);
  return text;
}

std::string Comparison::json() const {
  nlohmann::json all{{"a", a},
                     {"b", b},
                     {"summary", summary()},
                     {"cosine", finite(cosine)},
                     {"ratio", finite(ratio)},
                     {"only_in_a", only_in_a},
                     {"only_in_b", only_in_b},
                     {"notes", notes},
                     {"layers", nlohmann::json::array()}};
  for (const auto& [layer, c, r, note] : rows)
    all["layers"].push_back({{"layer", layer}, {"cosine", finite(c)}, {"ratio", finite(r)}, {"note", note}});
  return json_text(all);
}

std::string Conversion::text() const {
  std::string text;
  for (const auto& file : files) text += line("{}", file.string());
  if (approximated > 0)
    text += line("{} of {} approximated: relative error {:.3g} on average, {:.3g} at most ({})", approximated,
                 counted(layers, "layer"), mean_error, largest_error, worst);
  for (const auto& note : notes) text += line("note: {}", note);
  return text;
}

}  // namespace lora
