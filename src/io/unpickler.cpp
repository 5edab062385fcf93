#include "io/unpickler.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "core/check.h"

namespace lora {

namespace {

constexpr size_t kMostValues = 10'000'000;  // the largest checkpoints have a few hundred thousand
constexpr size_t kMostLine = 4096;          // characters of a module's or class's name

}  // namespace

Pickle unpickle(std::string_view bytes, const std::string& where) { return Unpickler(bytes, where).run(); }

Pickle Unpickler::run() {
  while (step()) {
  }
  pickle_.root = pop();
  pickle_.size = position_;
  return std::move(pickle_);
}

// The opcodes of CPython's pickletools, protocols 2 to 5. torch never wrote protocols 0 and 1.
bool Unpickler::step() {
  auto opcode = number<uint8_t>();
  switch (opcode) {
    case '.': return false;
    case 0x80: {  // PROTO
      auto protocol = number<uint8_t>();
      check(protocol <= 5, ErrorKind::unsupported, "{}: is a pickle of protocol {}; wanted 2 to 5", where_, protocol);
      return true;
    }
    case 0x95: take(8); return true;  // FRAME
    case '(': marks_.push_back(stack_.size()); return true;
    case '0': pop(); return true;
    case '1': pop_to_mark(); return true;
    case '2': push(top()); return true;
    case 'q': remember(number<uint8_t>()); return true;
    case 'r': remember(number<uint32_t>()); return true;
    case 0x94: remember(memo_.size()); return true;  // MEMOIZE
    case 'h': push(recall(number<uint8_t>())); return true;
    case 'j': push(recall(number<uint32_t>())); return true;
    case 'c': {  // GLOBAL
      auto module = line();
      push(make(PickleGlobal{module, line()}));
      return true;
    }
    case 0x93: {  // STACK_GLOBAL
      auto* name = pop()->as<std::string_view>();
      auto* module = pop()->as<std::string_view>();
      if (!name || !module) malformed("a class without a name");
      push(make(PickleGlobal{*module, *name}));
      return true;
    }
    case 'R':
    case 0x81: {  // REDUCE, NEWOBJ
      auto* arguments = pop();
      push(call(*pop(), *arguments));
      return true;
    }
    case 'b':  // BUILD
      pop();
      build(*top());
      return true;
    case 'Q': push(persistent(*pop())); return true;
    default:
      if (step_constant(opcode) || step_container(opcode)) return true;
      fail(ErrorKind::unsupported,
           "{}: uses the pickle opcode {:#04x}, which torch does not write; save it again with a newer torch", where_,
           opcode);
  }
}

bool Unpickler::step_constant(uint8_t opcode) {
  switch (opcode) {
    case 'N': push(make(PickleNone{})); return true;
    case 0x88: push(make(true)); return true;
    case 0x89: push(make(false)); return true;
    case 'K': push(make(int64_t{number<uint8_t>()})); return true;
    case 'M': push(make(int64_t{number<uint16_t>()})); return true;
    case 'J': push(make(int64_t{number<int32_t>()})); return true;
    case 0x8a: push(make_integer(take(number<uint8_t>()))); return true;   // LONG1
    case 0x8b: push(make_integer(take(number<uint32_t>()))); return true;  // LONG4
    case 'G': push(make(std::bit_cast<double>(__builtin_bswap64(number<uint64_t>())))); return true;
    case 'U': push(make(take(number<uint8_t>()))); return true;   // text of Python 2
    case 'T': push(make(take(number<uint32_t>()))); return true;  // text of Python 2
    case 0x8c: push(make(take(number<uint8_t>()))); return true;  // SHORT_BINUNICODE
    case 'X': push(make(take(number<uint32_t>()))); return true;
    case 0x8d: push(make(take(number<uint64_t>()))); return true;  // BINUNICODE8
    case 'C': push(make(PickleBytes{take(number<uint8_t>())})); return true;
    case 'B': push(make(PickleBytes{take(number<uint32_t>())})); return true;
    case 0x8e:                                                                  // BINBYTES8
    case 0x96: push(make(PickleBytes{take(number<uint64_t>())})); return true;  // BYTEARRAY8
    default: return false;
  }
}

bool Unpickler::step_container(uint8_t opcode) {
  using Kind = PickleList::Kind;
  switch (opcode) {
    case ']': push(make(PickleList{})); return true;
    case ')': push(make_tuple(0)); return true;
    case 0x85: push(make_tuple(1)); return true;
    case 0x86: push(make_tuple(2)); return true;
    case 0x87: push(make_tuple(3)); return true;
    case 't': push(make(PickleList{Kind::tuple, pop_to_mark()})); return true;
    case 'l': push(make(PickleList{Kind::list, pop_to_mark()})); return true;
    case 'a': append(Kind::list, {pop()}); return true;
    case 'e': append(Kind::list, pop_to_mark()); return true;
    case 0x8f: push(make(PickleList{Kind::set, {}})); return true;
    case 0x90: append(Kind::set, pop_to_mark()); return true;
    case 0x91: push(make(PickleList{Kind::set, pop_to_mark()})); return true;
    case '}': push(make(PickleDict{})); return true;
    case 'd': {
      auto items = pop_to_mark();
      push(make(PickleDict{}));
      set_items(items);
      return true;
    }
    case 'u': set_items(pop_to_mark()); return true;
    case 's': {
      auto* value = pop();
      auto* key = pop();
      set_items({key, value});
      return true;
    }
    default: return false;
  }
}

std::string_view Unpickler::take(uint64_t size) {
  if (size > bytes_.size() - position_) malformed("it is cut off");
  auto taken = bytes_.substr(position_, size);
  position_ += size;
  return taken;
}

template <class T>
T Unpickler::number() {
  T value;
  std::memcpy(&value, take(sizeof value).data(), sizeof value);
  return value;
}

std::string_view Unpickler::line() {
  size_t length = bytes_.substr(position_, kMostLine).find('\n');
  if (length == std::string_view::npos) malformed("a name without an end");
  auto text = take(length);
  take(1);
  return text;
}

PickleValue* Unpickler::pop() {
  auto* value = top();
  stack_.pop_back();
  return value;
}

PickleValue* Unpickler::top() {
  if (stack_.size() <= (marks_.empty() ? 0 : marks_.back())) malformed("it takes from an empty stack");
  return stack_.back();
}

Unpickler::Items Unpickler::pop_to_mark() {
  if (marks_.empty()) malformed("it does not have a mark");
  auto first = stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back());
  Items items(first, stack_.end());
  stack_.erase(first, stack_.end());
  marks_.pop_back();
  return items;
}

// Picklers number their memos from 0 up. So an index above the number of bytes read so far is invalid. It would only
// allocate memory.
void Unpickler::remember(uint64_t index) {
  if (index >= position_) malformed("a memo index out of range");
  if (index >= memo_.size()) memo_.resize(index + 1);
  memo_[index] = top();
}

PickleValue* Unpickler::recall(uint64_t index) {
  if (index >= memo_.size() || !memo_[index]) malformed("it refers to a memo that was not set");
  return memo_[index];
}

PickleValue* Unpickler::make_integer(std::string_view data) {
  if (data.size() > 8) return make(PickleBigInt{data});
  bool negative = !data.empty() && (data.back() & 0x80);
  int64_t value = negative ? -1 : 0;
  std::memcpy(&value, data.data(), data.size());
  return make(value);
}

PickleValue* Unpickler::make_tuple(size_t count) {
  Items items(count);
  for (size_t i = count; i-- > 0;) items[i] = pop();
  return make(PickleList{PickleList::Kind::tuple, std::move(items)});
}

void Unpickler::append(PickleList::Kind kind, const Items& items) {
  auto* list = std::get_if<PickleList>(&top()->data);
  if (!list || list->kind != kind) malformed("it adds an item to a value that is not a list or set");
  list->items.insert(list->items.end(), items.begin(), items.end());
}

void Unpickler::set_items(const Items& keys_and_values) {
  auto* dict = std::get_if<PickleDict>(&top()->data);
  if (!dict) malformed("it adds a key to a value that is not a dict");
  if (keys_and_values.size() % 2 != 0) malformed("a key without a value");
  for (size_t i = 0; i < keys_and_values.size(); i += 2)
    dict->items.emplace_back(keys_and_values[i], keys_and_values[i + 1]);
}

void Unpickler::charge(size_t values) {
  charged_ += values;
  check(charged_ <= kMostValues, ErrorKind::unsupported, "{}: its pickle holds more than {} values", where_,
        kMostValues);
}

void Unpickler::malformed(std::string_view what) const {
  fail(ErrorKind::bad_file, "{}: its pickle is damaged at byte {}: {}", where_, position_, what);
}

}  // namespace lora
