#include "pipelines/prompt_texts.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "adapters/finite.h"
#include "core/check.h"
#include "pipelines/call_options.h"
#include "tokenizers/padding.h"

namespace lora {

namespace {

// How many tokens a CLIP text encoder reads at once.
int64_t length_of(const ClipEncoder& encoder) {
  return std::min(encoder.tokenizer.model_max_length(), encoder.model.max_position_embeddings());
}

// A row for each chunk, [chunks, tokens], of one member of theirs.
template <class Number>
Tensor rows_of(const std::vector<const PromptChunk*>& chunks, std::vector<Number> PromptChunk::*member, Dtype dtype) {
  std::vector<Tensor> rows;
  for (const auto* chunk : chunks) rows.push_back(at::tensor(chunk->*member, dtype));
  return at::stack(rows);
}

bool has_weights(const PromptChunk* chunk) {
  return std::any_of(chunk->weights.begin(), chunk->weights.end(), [](double weight) { return weight != 1; });
}

// Multiplies states, [chunks, tokens, width], by the weight of each token. Then restores the mean of each chunk's
// states. Computes in float64, because a mean is small beside its terms.
Tensor weighted(const Tensor& states, const std::vector<const PromptChunk*>& chunks) {
  if (std::none_of(chunks.begin(), chunks.end(), has_weights)) return states;
  const auto weights = rows_of(chunks, &PromptChunk::weights, at::kDouble).to(states.device()).unsqueeze(-1);
  const auto exact = states.to(at::kDouble), product = exact * weights;
  auto mean = [](const Tensor& t) { return t.mean({1, 2}, /*keepdim=*/true); };
  const auto result = (product * (mean(exact) / mean(product))).to(states.scalar_type());
  check(all_finite(result) || !all_finite(states), ErrorKind::usage,
        "the weights of the prompt's words give NaN or infinite numbers. Give weights nearer to 1");
  return result;
}

TextEmbeddings penultimate(const CLIPTextModel& model, const Tensor& ids, std::optional<int> clip_skip) {
  const auto skipped = int64_t(clip_skip.value_or(0)) + 1;
  check(skipped >= 1 && skipped <= model.num_hidden_layers(), ErrorKind::usage,
        "clip_skip is {}. It must be 0 to {}, as this pipeline reads the states before the last layer",
        clip_skip.value_or(0), model.num_hidden_layers() - 1);
  auto out = model(ids);
  return {out.hidden_states[out.hidden_states.size() - 1 - size_t(skipped)], out.text_embeds};
}

}  // namespace

void PromptTexts::note_unread(const char* component, int encoder, int64_t length,
                              const std::function<std::string(const std::string&)>& cut_off) const {
  if (options) lora::note_unread(*options, component, negative, by_encoder[encoder], length, cut_off);
}

PromptTexts::ClipChunks PromptTexts::chunks(const ClipEncoder& encoder, int index) const {
  const auto words = encoder.model.added_words();
  const auto tokenizer = encoder.tokenizer.with_words(words);
  const bool plain = syntax == PromptSyntax::plain;
  const auto length = plain ? tokenizer.model_max_length() : length_of(encoder);
  note_unread(encoder.component, index, length,
              [&](const std::string& text) { return plain ? tokenizer.truncated_part(text) : ""; });
  auto cut = [&](const std::string& text) -> std::vector<PromptChunk> {
    if (!plain) return prompt_chunks(text, tokenizer, words, length);
    return {{.ids = tokenizer.encode_padded(text), .weights = {}}};
  };
  ClipChunks all{.empty = cut("").front()};
  auto count = [&](const std::vector<PromptChunk>& own) { all.most = std::max(all.most, own.size()); };
  for (const auto& text : by_encoder[index]) count(all.of_text.emplace_back(cut(text)));
  for (const auto& text : other_half[index]) count(cut(text));
  return all;
}

std::vector<TextEmbeddings> PromptTexts::clip(const std::vector<ClipEncoder>& encoders, const Encode& encode) const {
  std::vector<ClipChunks> all;
  size_t count = 1;
  for (const auto& e : encoders) {
    all.push_back(run(e.component, e.model, [&] { return chunks(e, int(all.size())); }));
    count = std::max(count, all.back().most);
  }
  // One chunk after the other: the rows of a batch are its images, for adapters of single images.
  auto embed = [&](const CLIPTextModel& model, const ClipChunks& own) {
    std::vector<Tensor> states;
    Tensor pooled;
    for (size_t i = 0; i < count; ++i) {
      std::vector<const PromptChunk*> rows;
      for (const auto& text : own.of_text) rows.push_back(i < text.size() ? &text[i] : &own.empty);
      const auto out = encode(model, rows_of(rows, &PromptChunk::ids, at::kLong).to(model.device()));
      states.push_back(weighted(out.prompt_embeds, rows));
      if (i == 0) pooled = out.pooled;
    }
    return TextEmbeddings{count == 1 ? states.front() : at::cat(states, 1), pooled};
  };
  std::vector<TextEmbeddings> embeddings;
  for (size_t i = 0; i < encoders.size(); ++i)
    embeddings.push_back(
        run(encoders[i].component, encoders[i].model, [&] { return embed(encoders[i].model, all[i]); }));
  return embeddings;
}

std::vector<TextEmbeddings> PromptTexts::clip(const std::vector<ClipEncoder>& encoders) const {
  return clip(encoders,
              [&](const CLIPTextModel& model, const Tensor& ids) { return penultimate(model, ids, clip_skip); });
}

Tensor PromptTexts::t5(const char* component, const T5EncoderModel& model, const T5Tokenizer& tokenizer) const {
  return run(component, model, [&] {
    const auto tokens = tokenizer.with_words(model.added_words());
    const auto length = int64_t(max_sequence_length);
    auto whole = [&](const std::string& text) {
      return syntax == PromptSyntax::plain ? PromptChunk{.ids = tokens.encode(text), .weights = {}}
                                           : t5_tokens(text, tokens);
    };
    note_unread(component, 2, length,
                [&](const std::string& text) { return tokens.decode(cut_off(whole(text).ids, length)); });
    std::vector<PromptChunk> chunks;
    std::vector<const PromptChunk*> rows;
    for (const auto& text : by_encoder[2]) {
      auto& chunk = chunks.emplace_back(whole(text));
      chunk.ids = cut_or_padded(std::move(chunk.ids), length, tokens.eos_token_id(), tokens.pad_token_id());
      if (int64_t(chunk.weights.size()) > length) chunk.weights[size_t(length) - 1] = 1;  // of the end token
      chunk.weights.resize(size_t(length), 1);
    }
    for (const auto& chunk : chunks) rows.push_back(&chunk);
    return weighted(model(rows_of(rows, &PromptChunk::ids, at::kLong)), rows);
  });
}

}  // namespace lora
