// LoadReport as text and as JSON.
#include <nlohmann/json.hpp>

#include "core/escape.h"
#include "core/text.h"
#include "io/json_text.h"
#include "lora/adapters.h"

namespace lora {

size_t LoadReport::matched_layers() const {
  size_t n = 0;
  for (const auto& component : components) n += component.layers.size();
  return n;
}

std::string LoadReport::text() const {
  auto text = adapter_name.empty() ? line("{} ({})", source, dialect)
                                   : line("{} ({}) as \"{}\"", source, dialect, adapter_name);
  for (const auto& [name, layers] : components) text += line("  {}: {}", name, counted(layers.size(), "layer"));
  if (!embeddings.empty()) text += line("  words for prompts: {}", join(embeddings, ", "));
  if (!unmatched.empty()) text += line("  not matched: {}", counted(unmatched.size(), "key"));
  for (size_t i = 0; i < unmatched.size() && i < 5; ++i)
    text += line("    {}: {}", unmatched[i].key, unmatched[i].reason);
  for (const auto& note : notes) text += line("  note: {}", note);
  return text;
}

std::string LoadReport::json() const {
  using nlohmann::json;
  json all{{"adapter_name", adapter_name}, {"source", source}, {"dialect", dialect}, {"notes", notes}};
  all["embeddings"] = embeddings;
  all["components"] = json::object();
  for (const auto& [name, layers] : components) {
    auto& rows = all["components"][name] = json::array();
    for (const auto& l : layers)
      rows.push_back(
          {{"path", l.path}, {"algorithm", l.algorithm}, {"rank", l.rank}, {"alpha", l.alpha}, {"scale", l.scale}});
  }
  all["unmatched"] = json::array();
  for (const auto& [key, reason] : unmatched) all["unmatched"].push_back({{"key", key}, {"reason", reason}});
  return json_text(all);
}

}  // namespace lora
