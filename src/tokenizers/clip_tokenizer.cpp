#include <algorithm>

#include "core/check.h"
#include "core/edge.h"
#include "core/utf8.h"
#include "lora/tokenizer.h"
#include "tokenizers/added_tokens.h"
#include "tokenizers/byte_pair.h"
#include "tokenizers/padding.h"
#include "tokenizers/pre_tokenizer.h"
#include "tokenizers/tokenizer_config.h"
#include "tokenizers/tokenizer_files.h"
#include "tokenizers/unicode.h"

namespace lora {

using std::filesystem::path;

namespace {

constexpr auto kBegin = "<|startoftext|>", kEnd = "<|endoftext|>";

// Replaces ends of words by spaces.
std::string spaced(std::string_view text) {
  std::string out;
  size_t begin = 0;
  for (size_t end; (end = text.find(kEndOfWord, begin)) != text.npos; begin = end + kEndOfWord.size())
    out.append(text, begin, end - begin) += ' ';
  return out.append(text, begin);
}

// Python's str.strip().
std::u32string strip(const std::u32string& text) {
  auto is_ink = [](char32_t c) { return !is_space(c) && !(c >= 0x1C && c <= 0x1F); };
  auto begin = std::ranges::find_if(text, is_ink);
  auto end = std::find_if(text.rbegin(), std::make_reverse_iterator(begin), is_ink).base();
  return {begin, end};
}

}  // namespace

struct CLIPTokenizer::Impl {
  int64_t bos, eos, pad;
  int64_t model_max_length;
  Vocabulary vocabulary;
  BytePair byte_pair;
};

CLIPTokenizer CLIPTokenizer::make(TokenizerFiles files, const TokenizerConfig& config) {
  auto added = number_added_tokens(config.added, files.vocabulary);
  auto unknown = config.unk_token ? files.vocabulary.id(*config.unk_token) : std::nullopt;
  BytePair byte_pair(files.vocabulary, std::move(files.merges), unknown);

  auto id_of = [&](const char* role, const std::string& token) {
    auto stated = std::ranges::find_if(config.added, [&](const auto& a) { return a.id && a.token.content == token; });
    auto id = stated == config.added.end() ? files.vocabulary.id(token) : stated->id;
    check(id.has_value(), ErrorKind::bad_file,
          "{}: does not have the token `{}`, the {}; is it another model's vocabulary?", files.vocabulary.source(),
          token, role);
    return *id;
  };
  CLIPTokenizer clip;
  clip.impl_ = std::make_shared<const Impl>(Impl{
      .bos = id_of("bos_token", config.bos_token),
      .eos = id_of("eos_token", config.eos_token),
      .pad = id_of("pad_token", config.pad_token),
      .model_max_length = config.model_max_length,
      .vocabulary = std::move(files.vocabulary),
      .byte_pair = std::move(byte_pair),
  });
  clip.added_ = std::make_shared<const AddedTokens>(added, config.split_special_tokens, normalized);
  return clip;
}

CLIPTokenizer CLIPTokenizer::from_pretrained(const path& folder) {
  return edge([&] {
    auto files = read_tokenizer_files(folder);
    auto config = read_tokenizer_config(
        folder, files.rest, {{"bos_token", kBegin}, {"eos_token", kEnd}, {"unk_token", kEnd}, {"pad_token", kEnd}});
    auto clip = make(std::move(files), config);
    clip.folder_ = folder;
    return clip;
  });
}

CLIPTokenizer CLIPTokenizer::openai(const std::string& pad_token) {
  return edge([&] {
    TokenizerConfig config{
        .bos_token = kBegin, .eos_token = kEnd, .pad_token = pad_token, .unk_token = kEnd, .model_max_length = 77};
    for (const std::string& token : {std::string(kBegin), std::string(kEnd), pad_token})
      config.added.push_back({{.content = token}, {}});
    auto clip = make(openai_tokenizer_files(), config);
    clip.pad_token_ = pad_token;
    return clip;
  });
}

CLIPTokenizer CLIPTokenizer::with_words(const std::vector<AddedWord>& words) const {
  return edge([&] {
    if (words.empty()) return *this;
    auto is_token = [&](const std::string& word) { return encode(word).size() == 3; };  // between begin and end
    auto copy = *this;
    copy.added_ = std::make_shared<const AddedTokens>(added_->with(words, is_token));
    return copy;
  });
}

std::vector<int64_t> CLIPTokenizer::encode(std::string_view text) const {
  return edge([&] {
    std::vector<int64_t> ids{impl_->bos};
    added_->append_ids(ids, text, pre_tokenize, [&](const std::string& word) { return impl_->byte_pair.encode(word); });
    ids.push_back(impl_->eos);
    return ids;
  });
}

std::vector<int64_t> CLIPTokenizer::encode_padded(std::string_view text) const {
  auto ids = encode(text);
  if (impl_->model_max_length == TokenizerConfig::kNoLimit) return ids;
  return cut_or_padded(std::move(ids), impl_->model_max_length, impl_->eos, impl_->pad);
}

std::string CLIPTokenizer::truncated_part(std::string_view text) const {
  return decode(cut_off(encode(text), impl_->model_max_length));
}

std::string CLIPTokenizer::decode(const std::vector<int64_t>& ids) const {
  return edge([&] {
    std::string bytes;
    for (int64_t id : ids) {
      auto token = added_->token(id);
      if (!token) token = impl_->vocabulary.token(id);
      if (token) bytes += token_bytes(*token);
    }
    return to_utf8(strip(from_utf8(spaced(bytes))));
  });
}

int64_t CLIPTokenizer::model_max_length() const { return impl_->model_max_length; }

int64_t CLIPTokenizer::pad_token_id() const { return impl_->pad; }

int64_t CLIPTokenizer::vocab_size() const { return impl_->vocabulary.size(); }

}  // namespace lora
