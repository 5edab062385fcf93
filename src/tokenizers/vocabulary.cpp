#include "tokenizers/vocabulary.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

#include "core/check.h"

namespace lora {

// Tokens are only a few bytes long. std::hash takes several times as long for them.
static uint64_t hash(std::string_view token) {
  constexpr uint64_t kMultiplier = 0x9E3779B97F4A7C15;
  uint64_t mixed = token.size();
  for (; token.size() > 8; token.remove_prefix(8)) {
    uint64_t part;
    std::memcpy(&part, token.data(), 8);
    mixed = std::rotl((mixed ^ part) * kMultiplier, 29);
  }
  uint64_t part = 0;
  std::memcpy(&part, token.data(), token.size());
  mixed = (mixed ^ part) * kMultiplier;
  return mixed ^ mixed >> 32;
}

Vocabulary::Vocabulary(std::vector<VocabularyEntry> entries, std::string source)
    : by_token_(entries.size()), source_(std::move(source)) {
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  if (!std::ranges::is_sorted(entries, {}, &VocabularyEntry::id)) std::ranges::sort(entries, {}, &VocabularyEntry::id);
  records_.reserve(entries.size());
  for (const auto& [name, id] : entries) {
    check(id >= 0 && id <= kMost, ErrorKind::bad_file, "{}: the token `{}` has the id {}; ids are from 0 to {}",
          source_, name, id, kMost);
    if (!records_.empty() && records_.back().id == id)
      fail(ErrorKind::bad_file, "{}: the tokens `{}` and `{}` have the same id, {}", source_, token(records_.back()),
           name, id);
    auto& slot = by_token_.slot(hash(name), [&](uint32_t at) { return token(records_[at]) == name; });
    check(slot == FlatIndex::kNone, ErrorKind::bad_file, "{}: the token `{}` occurs twice", source_, name);
    slot = static_cast<uint32_t>(records_.size());
    records_.push_back(
        {static_cast<uint32_t>(text_.size()), static_cast<uint32_t>(name.size()), static_cast<int32_t>(id)});
    text_ += name;
  }
}

std::optional<int64_t> Vocabulary::id(std::string_view name) const {
  uint32_t at = by_token_.find(hash(name), [&](uint32_t i) { return token(records_[i]) == name; });
  if (at == FlatIndex::kNone) return std::nullopt;
  return records_[at].id;
}

std::optional<int64_t> Vocabulary::id(std::string_view name, int64_t previous) const {
  // If ids have no gaps, records_[id] is the record of the id.
  auto next = static_cast<size_t>(previous + 1);
  if (next < records_.size() && records_[next].id == previous + 1 && token(records_[next]) == name) return previous + 1;
  return id(name);
}

std::optional<std::string_view> Vocabulary::token(int64_t id) const {
  auto record = std::ranges::lower_bound(records_, id, {}, &Record::id);
  if (record == records_.end() || record->id != id) return std::nullopt;
  return token(*record);
}

}  // namespace lora
