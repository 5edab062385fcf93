// Results as text for people and as JSON for programs.
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/text.h"
#include "lora/files.h"

namespace lora {

namespace {

std::string coverage(const Inspection::Component& c) {
  auto layers = c.linear_layers + c.conv_layers;
  if (c.of == 0) return fmt::format("{} layers of {}", layers, c.name);
  auto percent = 100.0 * double(c.covered) / double(c.of);
  return fmt::format("{} of {} layers of {} ({:.0f} %)", c.covered, c.of, c.model, percent);
}

std::string row(const char* name, const std::string& text) {
  return text.empty() ? "" : fmt::format("  {:<11} {}\n", name, text);
}

std::string first_line(const std::string& text, size_t most) {
  auto line = text.substr(0, text.find('\n'));
  return line.size() < text.size() || line.size() > most ? line.substr(0, most) + " …" : line;
}

std::string component_text(const Inspection::Component& c) {
  std::vector<std::string> kinds;
  for (const auto& [kind, n] : c.kinds) kinds.push_back(fmt::format("{} {}", n, kind));
  auto text = fmt::format("  {}: {}; {} linear, {} convolution: {}\n", c.name, coverage(c), c.linear_layers,
                          c.conv_layers, join(kinds, ", "));
  constexpr size_t kMost = 8;
  for (size_t i = 0; i < c.ranks.size() && i < kMost; ++i)
    text += fmt::format("    rank {}, alpha {:g}: {} layers\n", c.ranks[i].rank, c.ranks[i].alpha, c.ranks[i].layers);
  if (c.ranks.size() > kMost) text += fmt::format("    … {} pairs of rank and alpha in all\n", c.ranks.size());
  return text;
}

std::string hashes_text(const FileHashes& hashes) {
  if (hashes.file.empty()) return "";
  auto text = row("SHA-256", hashes.file);
  text += row("AutoV2", hashes.auto_v2() + (hashes.data.empty() ? "" : ", AutoV3 " + hashes.auto_v3()));
  if (!hashes.data.empty() && !hashes.claims.contains("sshs_model_hash")) text += row("hash", "none in the metadata");
  for (const auto& [key, verdict] : hashes.claims) text += fmt::format("  {} {}\n", key, verdict);
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
  auto state = n == 0 ? "fine" : n == 1 ? "1 problem" : fmt::format("{} problems", n);
  return fmt::format("{} for {}, {}: {}: {}", algorithm, architecture.empty() ? "an unknown base model" : architecture,
                     dialect, join(parts, ", "), state);
}

std::string Inspection::text() const {
  std::vector<std::string> types;
  for (const auto& [dtype, n] : dtypes) types.push_back(fmt::format("{} ({} tensors)", dtype, n));
  auto text = verdict() + "\n";
  for (const auto& finding : findings)
    text += fmt::format("  {}: {}{}\n", finding.problem ? "problem" : "remark", finding.what,
                        finding.layers.empty() ? "" : ": " + listing(finding.layers, 3));
  text +=
      row("file", fmt::format("{}, {:.1f} MB, {} tensors: {}", file, double(bytes) / 1e6, tensors, join(types, ", ")));
  text += row("base model", architecture.empty() ? "" : fmt::format("{}: {}", architecture, known_by));
  text += row("trainer", trainer);
  for (const auto& c : components) text += component_text(c);
  for (const auto& [word, encoders] : words)
    text += fmt::format("  brings the word \"{}\" for {}\n", word, join(encoders, ", "));
  text += hashes_text(hashes);
  if (!metadata.empty()) text += "  metadata:\n";
  for (const auto& [key, value] : metadata) text += fmt::format("    {}: {}\n", key, first_line(value, 100));
  for (const auto& note : notes) text += fmt::format("  note: {}\n", note);
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
  return all.dump(2, ' ', false, json::error_handler_t::replace);
}

std::string Comparison::summary() const {
  if (rows.empty())
    return fmt::format("no layer in common: {} only in the first, {} only in the second", only_in_a.size(),
                       only_in_b.size());
  std::vector<double> cosines;
  for (const auto& row : rows)
    if (!std::isnan(row.cosine)) cosines.push_back(row.cosine);
  if (cosines.empty()) return fmt::format("{} layers in common, but none can be compared", rows.size());
  auto [low, high] = std::minmax_element(cosines.begin(), cosines.end());
  return fmt::format(
      "{} layers in common: cosine {:.6f} together ({:.6f} to {:.6f} by layer), norm ratio {:.6f}; {} only in the "
      "first, {} only in the second",
      rows.size(), cosine, *low, *high, ratio, only_in_a.size(), only_in_b.size());
}

std::string Comparison::text() const {
  auto text = fmt::format("{}\n  first:  {}\n  second: {}\n", summary(), a, b);
  if (!rows.empty()) text += "    cosine     ratio\n";
  for (const auto& [layer, c, r, note] : rows)
    text += std::isnan(c)
                ? fmt::format("         –         –  {} ({})\n", layer, note)
                : fmt::format("  {:8.6f}  {:8.5g}  {}{}\n", c, r, layer, note.empty() ? "" : " (" + note + ")");
  for (const auto& layer : only_in_a) text += fmt::format("  only in the first:  {}\n", layer);
  for (const auto& layer : only_in_b) text += fmt::format("  only in the second: {}\n", layer);
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
                     {"layers", nlohmann::json::array()}};
  for (const auto& [layer, c, r, note] : rows)
    all["layers"].push_back({{"layer", layer}, {"cosine", finite(c)}, {"ratio", finite(r)}, {"note", note}});
  return all.dump(2);
}

std::string Conversion::text() const {
  std::string text;
  for (const auto& file : files) text += file.string() + "\n";
  if (approximated > 0)
    text += fmt::format("{} of {} layers approximated: relative error {:.3g} on average, {:.3g} at most ({})\n",
                        approximated, layers, mean_error, largest_error, worst);
  for (const auto& note : notes) text += fmt::format("note: {}\n", note);
  return text;
}

}  // namespace lora
