#include "tokenizers/byte_pair.h"

#include <algorithm>
#include <queue>

#include "core/check.h"
#include "core/utf8.h"

namespace lora {

namespace {

bool is_printable(int byte) {
  return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || (byte >= 0xAE && byte <= 0xFF);
}

std::array<char32_t, 256> make_byte_characters() {
  std::array<char32_t, 256> characters{};
  char32_t next = 0x100;
  for (int byte = 0; byte < 256; ++byte) characters[byte] = is_printable(byte) ? static_cast<char32_t>(byte) : next++;
  return characters;
}

uint64_t hash(int64_t left, int64_t right) {
  uint64_t key = (static_cast<uint64_t>(left) << 32 | static_cast<uint64_t>(right)) * 0x9E3779B97F4A7C15;
  return key >> 32;
}

// A token of the word being encoded, in a list that merging shortens.
struct Symbol {
  int64_t id;
  int previous, next;  // -1: none
  bool alive = true;
};

// A possible merge. The lowest rank comes first, then the leftmost.
struct Candidate {
  uint32_t rank;
  int at;

  bool operator<(const Candidate& other) const {  // the top of the queue is its greatest element
    return rank != other.rank ? rank > other.rank : at > other.at;
  }
};

}  // namespace

const std::array<char32_t, 256>& byte_characters() {
  static const auto characters = make_byte_characters();
  return characters;
}

std::string token_bytes(std::string_view token) {
  std::string bytes;
  for (char32_t c : from_utf8(token)) {
    const auto& characters = byte_characters();
    auto byte = std::ranges::find(characters, c);
    if (byte == characters.end()) return std::string(token);
    bytes += static_cast<char>(byte - characters.begin());
  }
  return bytes;
}

BytePair::BytePair(const Vocabulary& vocabulary, std::vector<Merge> merges, std::optional<int64_t> unknown)
    : merges_(std::move(merges)), by_pair_(merges_.size()) {
  for (uint32_t i = 0; i < merges_.size(); ++i) {
    auto [left, right, merged] = merges_[i];
    auto same = [&](uint32_t at) { return merges_[at].left == left && merges_[at].right == right; };
    by_pair_.slot(hash(left, right), same) = i;  // of equal pairs the later rank counts
  }
  auto byte_id = [&](const std::string& token) {
    auto id = vocabulary.id(token);
    check(id || unknown, ErrorKind::bad_file,
          "{}: does not have the byte token `{}`, and there is no unk_token to replace it", vocabulary.source(), token);
    return id ? *id : *unknown;
  };
  for (size_t byte = 0; byte < 256; ++byte) {
    auto token = to_utf8({&byte_characters()[byte], 1});
    inner_[byte] = byte_id(token);
    last_[byte] = byte_id(token.append(kEndOfWord));
  }
}

uint32_t BytePair::rank(int64_t left, int64_t right) const {
  return by_pair_.find(hash(left, right),
                       [&](uint32_t at) { return merges_[at].left == left && merges_[at].right == right; });
}

std::vector<int64_t> BytePair::encode(std::string_view word) const {
  int length = static_cast<int>(word.size());
  std::vector<Symbol> symbols;
  symbols.reserve(word.size());
  for (int i = 0; i < length; ++i) {
    auto byte = static_cast<unsigned char>(word[static_cast<size_t>(i)]);
    bool last = i + 1 == length;
    symbols.push_back({last ? last_[byte] : inner_[byte], i - 1, last ? -1 : i + 1});
  }

  std::priority_queue<Candidate> queue;
  auto offer = [&](int at) {
    if (at < 0 || symbols[at].next < 0) return;
    uint32_t found = rank(symbols[at].id, symbols[symbols[at].next].id);
    if (found != FlatIndex::kNone) queue.push({found, at});
  };
  for (int i = 0; i < length; ++i) offer(i);

  while (!queue.empty()) {
    auto [offered, at] = queue.top();
    queue.pop();
    auto& left = symbols[at];
    if (!left.alive || left.next < 0) continue;
    auto& right = symbols[left.next];
    // Both symbols may have changed. As in the reference, the merge is done if it still gives the same token.
    uint32_t now = rank(left.id, right.id);
    if (now == FlatIndex::kNone || merges_[now].merged != merges_[offered].merged) continue;
    left.id = merges_[now].merged;
    left.next = right.next;
    right.alive = false;
    if (right.next >= 0) symbols[right.next].previous = at;
    offer(left.previous);
    offer(at);
  }

  std::vector<int64_t> ids;
  for (const auto& symbol : symbols)
    if (symbol.alive) ids.push_back(symbol.id);
  return ids;
}

}  // namespace lora
