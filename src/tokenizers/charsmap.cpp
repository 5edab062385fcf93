#include "tokenizers/charsmap.h"

#include <unicode/brkiter.h>
#include <unicode/utext.h>

#include <bit>
#include <cstring>
#include <memory>

#include "core/check.h"
#include "core/utf8.h"

namespace lora {

static_assert(std::endian::native == std::endian::little, "the map is read as it is stored");

namespace {

// A node of Darts' double array: whether a key ends here, the byte that leads here, the position of its children.
struct Unit {
  uint32_t bits;

  bool has_leaf() const { return bits >> 8 & 1; }
  uint32_t label() const { return bits & (1u << 31 | 0xFF); }
  uint32_t value() const { return bits & ~(1u << 31); }
  uint32_t offset() const { return bits >> 10 << ((bits & 1u << 9) >> 6); }
};

// Splits a text into graphemes: what a reader sees as one character.
class Graphemes {
 public:
  explicit Graphemes(std::string_view text) : text_(text) {
    UErrorCode status = U_ZERO_ERROR;
    iterator_.reset(icu::BreakIterator::createCharacterInstance(icu::Locale::getRoot(), status));
    utext_ = utext_openUTF8(nullptr, text.data(), static_cast<int64_t>(text.size()), &status);
    if (U_SUCCESS(status)) iterator_->setText(utext_, status);
    check(U_SUCCESS(status), ErrorKind::unsupported, "ICU cannot split the text into characters: {}",
          u_errorName(status));
  }
  ~Graphemes() { utext_close(utext_); }
  Graphemes(const Graphemes&) = delete;
  Graphemes& operator=(const Graphemes&) = delete;

  // "" at the end.
  std::string_view next() {
    auto begin = iterator_->current(), end = iterator_->next();
    if (end == icu::BreakIterator::DONE) return {};
    return text_.substr(static_cast<size_t>(begin), static_cast<size_t>(end - begin));
  }

 private:
  std::string_view text_;
  std::unique_ptr<icu::BreakIterator> iterator_;
  UText* utext_ = nullptr;
};

}  // namespace

Charsmap::Charsmap(std::string_view compiled, const std::string& source) {
  if (compiled.empty()) return;
  uint32_t size = 0;
  bool whole = compiled.size() >= sizeof size;
  if (whole) std::memcpy(&size, compiled.data(), sizeof size);
  whole = whole && size > 0 && size % sizeof(uint32_t) == 0 && size <= compiled.size() - sizeof size;
  check(whole, ErrorKind::bad_file, "{}: precompiled_charsmap is cut short", source);
  trie_.resize(size / sizeof(uint32_t));
  std::memcpy(trie_.data(), compiled.data() + sizeof size, size);
  replacements_ = compiled.substr(sizeof size + size);
}

const char* Charsmap::find(std::string_view text) const {
  auto unit = [&](size_t at) {
    return Unit{at < trie_.size() ? trie_[at] : 0};
  };  // 0 has no label, no offset and no leaf
  size_t at = unit(0).offset();
  for (char c : text) {
    auto byte = static_cast<unsigned char>(c);
    at ^= byte;
    if (byte == 0 || unit(at).label() != byte) return nullptr;
    auto here = unit(at);
    at ^= here.offset();
    if (!here.has_leaf()) continue;
    auto value = unit(at).value();
    return value <= replacements_.size() ? replacements_.c_str() + value : nullptr;
  }
  return nullptr;
}

std::u32string Charsmap::operator()(const std::u32string& text) const {
  if (trie_.empty()) return text;
  // As the reference, looks up a short grapheme as a whole, and drops everything after the shortest key in it. Looks up
  // the code points of a longer grapheme one by one.
  constexpr size_t kShort = 6;
  auto bytes = to_utf8(text);
  std::string out;
  Graphemes graphemes(bytes);
  for (auto whole = graphemes.next(); !whole.empty(); whole = graphemes.next()) {
    if (const char* replacement = whole.size() < kShort ? find(whole) : nullptr) {
      out += replacement;
      continue;
    }
    for (char32_t c : from_utf8(whole)) {
      auto character = to_utf8({&c, 1});
      const char* replacement = find(character);
      out += replacement ? replacement : character;
    }
  }
  return from_utf8(out);
}

}  // namespace lora
