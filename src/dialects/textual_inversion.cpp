#include "dialects/textual_inversion.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/text.h"
#include "dialects/bundled_embeddings.h"

namespace lora {

namespace {

constexpr std::string_view kParameters = "string_to_param.", kTokens = "string_to_token.";

bool is_of_vectors(const Tensor& t) { return t.is_floating_point() && (t.dim() == 1 || t.dim() == 2) && t.numel() > 0; }

// A1111's pickle: the vectors under the token that they replaced in training, with numbers of the training beside them.
std::optional<TextualInversion> read_a1111(const StateDict& file) {
  TextualInversion found{.form = "a1111", .token = {}, .name = {}, .embeddings = {}, .unmatched = {}};
  if (auto name = file.metadata.find("name"); name != file.metadata.end()) found.name = name->second;
  for (const auto& [key, tensor] : file) {
    if (key.starts_with(kParameters))
      found.embeddings.push_back({.word = {}, .component = "text_encoder", .key = key, .vectors = tensor});
    else if (!key.starts_with(kTokens) && tensor.dim() > 0)
      found.unmatched.push_back({key, "beside the vectors of the word"});
  }
  return found.embeddings.size() == 1 ? std::optional(std::move(found)) : std::nullopt;
}

// The vectors under the names of their text encoders, or under a name for all of them.
std::optional<TextualInversion> read_by_encoder(const StateDict& file) {
  TextualInversion found{.form = "kohya", .token = {}, .name = {}, .embeddings = {}, .unmatched = {}};
  for (const auto& [key, tensor] : file) {
    const auto read = read_embedding_key(key);
    if (!read) continue;
    found.names_encoders |= read->names_encoder;
    if (read->problem.empty())
      found.embeddings.push_back({.word = {}, .component = read->component, .key = key, .vectors = tensor});
    else
      found.unmatched.push_back({key, read->problem});
  }
  if (found.embeddings.empty()) return std::nullopt;
  if (found.names_encoders) found.form = "comfyui";
  for (const auto& [key, tensor] : file)
    if (!read_embedding_key(key)) found.unmatched.push_back({key, "beside the vectors of the word"});
  return found;
}

}  // namespace

std::optional<TextualInversion> read_textual_inversion(const StateDict& file) {
  const bool is_a1111 =
      std::any_of(file.begin(), file.end(), [](auto& entry) { return entry.first.starts_with(kParameters); });
  if (is_a1111) return read_a1111(file);
  if (auto found = read_by_encoder(file)) return found;
  // diffusers: the word is the only key.
  if (file.size() != 1 || !is_of_vectors(file.begin()->second)) return std::nullopt;
  const auto& [token, vectors] = *file.begin();
  return TextualInversion{.form = "diffusers",
                          .token = token,
                          .name = {},
                          .embeddings = {{.word = {}, .component = "text_encoder", .key = token, .vectors = vectors}},
                          .unmatched = {}};
}

std::string sizes_of(const TextualInversion& inversion) {
  std::vector<std::string> all;
  for (const auto& [word, component, key, vectors] : inversion.embeddings) {
    if (!is_of_vectors(vectors)) continue;
    auto size = fmt::format("{} of width {}", counted(size_t(vectors.dim() == 1 ? 1 : vectors.size(0)), "vector"),
                            vectors.size(-1));
    all.push_back(inversion.names_encoders ? fmt::format("{} for {}", size, component) : size);
  }
  return all.empty() ? "no vectors" : join(all, ", ");
}

}  // namespace lora
