#include "lora/t5_tokenizer.h"

#include <algorithm>

#include "core/check.h"
#include "core/edge.h"
#include "core/text.h"
#include "core/utf8.h"
#include "tokenizers/added_tokens.h"
#include "tokenizers/charsmap.h"
#include "tokenizers/padding.h"
#include "tokenizers/t5_files.h"
#include "tokenizers/tokenizer_config.h"
#include "tokenizers/tokenizer_files.h"
#include "tokenizers/unicode.h"
#include "tokenizers/unigram.h"

namespace lora {

using nlohmann::json;
using std::filesystem::path;

namespace {

// Replaces the space before a word.
constexpr char32_t kSpaceMark = U'\u2581';
constexpr std::string_view kSpaceMarkBytes = "\u2581";

constexpr int64_t kMostExtraIds = 1 << 16;

int64_t extra_ids_of(const path& folder) {
  auto file = folder / "tokenizer_config.json";
  auto count = read_optional_json(file).value("extra_ids", json(100));
  check(count.is_number_integer() && count >= 0 && count <= kMostExtraIds, ErrorKind::bad_file,
        "{}: extra_ids is {}; a whole number from 0 to {} was expected", file.string(), count.dump(), kMostExtraIds);
  return count;
}

// T5's pre-tokenizer: the words of a normalised text. Each begins with a mark and has no other marks.
std::vector<std::u32string> pre_tokenize(const std::u32string& text) {
  std::vector<std::u32string> words;
  bool after_space = true;
  for (char32_t c : text) {
    if (!is_space(c)) {
      if (after_space || c == kSpaceMark) words.push_back({kSpaceMark});
      if (c != kSpaceMark) words.back() += c;
    }
    after_space = is_space(c);
  }
  return words;
}

// The clean-up of transformers, if the config has clean_up_tokenization_spaces.
std::string without_spaces_before_marks(std::string text) {
  for (std::string_view mark : {" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're"})
    text = replace_all(std::move(text), mark, mark == " ' " ? "'" : mark.substr(1));
  return text;
}

}  // namespace

struct T5Tokenizer::Impl {
  int64_t eos, pad;
  Unigram unigram;
  bool clean_up;
};

T5Tokenizer T5Tokenizer::from_pretrained(const path& folder) {
  return edge([&] {
    auto extra_ids = reading(folder, [&] { return extra_ids_of(folder); });
    auto files = read_t5_files(folder, extra_ids);
    auto config = read_tokenizer_config(folder, files.rest,
                                        {{"eos_token", "</s>"},
                                         {"unk_token", "<unk>"},
                                         {"pad_token", "<pad>"},
                                         {"additional_special_tokens", t5_extra_tokens(extra_ids)}});
    auto by_id = number_added_tokens(config.added, files.vocabulary);
    auto id_of = [&](const std::string& token) {
      return std::ranges::find_if(by_id, [&](const auto& item) { return item.second.content == token; })->first;
    };
    Charsmap normalize(files.charsmap, files.vocabulary.source());
    T5Tokenizer t5;
    t5.folder_ = folder;
    t5.impl_ = std::make_shared<const Impl>(Impl{
        .eos = id_of(config.eos_token),
        .pad = id_of(config.pad_token),
        .unigram = Unigram(std::move(files.vocabulary), std::move(files.scores), kT5Unknown),
        .clean_up = config.clean_up_tokenization_spaces,
    });
    t5.added_ = std::make_shared<const AddedTokens>(by_id, config.split_special_tokens, std::move(normalize));
    return t5;
  });
}

T5Tokenizer T5Tokenizer::with_words(const std::vector<AddedWord>& words) const {
  return edge([&] {
    if (words.empty()) return *this;
    auto is_token = [&](const std::string& word) {
      return impl_->unigram.vocabulary().id(std::string(kSpaceMarkBytes) + word).has_value();
    };
    auto copy = *this;
    copy.added_ = std::make_shared<const AddedTokens>(added_->with(words, is_token));
    return copy;
  });
}

std::vector<int64_t> T5Tokenizer::encode(std::string_view text) const {
  return edge([&] {
    std::vector<int64_t> ids;
    added_->append_ids(ids, text, pre_tokenize, [&](const std::string& word) { return impl_->unigram.encode(word); });
    ids.push_back(impl_->eos);
    return ids;
  });
}

std::vector<int64_t> T5Tokenizer::encode_padded(std::string_view text, int64_t max_length) const {
  check(max_length > 0, ErrorKind::usage, "max_length is {}; it must be positive", max_length);
  return cut_or_padded(encode(text), max_length, impl_->eos, impl_->pad);
}

std::string T5Tokenizer::truncated_part(std::string_view text, int64_t max_length) const {
  check(max_length > 0, ErrorKind::usage, "max_length is {}; it must be positive", max_length);
  return decode(cut_off(encode(text), max_length));
}

std::string T5Tokenizer::decode(const std::vector<int64_t>& ids) const {
  return edge([&] {
    std::string text;
    bool first = true;
    for (int64_t id : ids) {
      auto token = added_->token(id);
      if (!token) token = impl_->unigram.vocabulary().token(id);
      if (!token) continue;
      text += replace_all(std::string(*token), kSpaceMarkBytes, first ? "" : " ");
      first = false;
    }
    return impl_->clean_up ? without_spaces_before_marks(std::move(text)) : text;
  });
}

void T5Tokenizer::save_pretrained(const path& folder) const {
  return edge([&] { copy_tokenizer_files(folder_, folder); });
}

int64_t T5Tokenizer::pad_token_id() const { return impl_->pad; }

int64_t T5Tokenizer::eos_token_id() const { return impl_->eos; }

int64_t T5Tokenizer::vocab_size() const { return impl_->unigram.vocabulary().size(); }

}  // namespace lora
