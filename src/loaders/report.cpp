// LoadReport as text and as JSON.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "core/text.h"
#include "lora/adapters.h"

namespace lora {

size_t LoadReport::matched_layers() const {
  size_t n = 0;
  for (const auto& component : components) n += component.layers.size();
  return n;
}

std::string LoadReport::text() const {
  auto text = fmt::format("{} ({}) as \"{}\"\n", source, dialect, adapter_name);
  for (const auto& [name, layers] : components) text += fmt::format("  {}: {} layers\n", name, layers.size());
  if (!embeddings.empty()) text += fmt::format("  words for prompts: {}\n", join(embeddings, ", "));
  if (!unmatched.empty()) text += fmt::format("  not matched: {} keys\n", unmatched.size());
  for (size_t i = 0; i < unmatched.size() && i < 5; ++i)
    text += fmt::format("    {}: {}\n", unmatched[i].key, unmatched[i].reason);
  for (const auto& note : notes) text += fmt::format("  note: {}\n", note);
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
  // Keys are a file's, and need not be UTF-8.
  return all.dump(2, ' ', /*ensure_ascii=*/false, json::error_handler_t::replace);
}

}  // namespace lora
