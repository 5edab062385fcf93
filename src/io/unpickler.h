#pragma once
// The stack machine of unpickle().
#include "io/pickle.h"

namespace lora {

class Unpickler {
 public:
  Unpickler(std::string_view bytes, const std::string& where) : bytes_(bytes), where_(where) {}
  Pickle run();

 private:
  using Items = std::vector<PickleValue*>;

  bool step();  // false at STOP
  bool step_constant(uint8_t opcode);
  bool step_container(uint8_t opcode);

  // Arguments of opcodes.
  std::string_view take(uint64_t size);
  template <class T>
  T number();
  std::string_view line();

  // The stack. The values above the last mark belong to that mark.
  void push(PickleValue* value) { stack_.push_back(value); }
  PickleValue* pop();
  PickleValue* top();
  Items pop_to_mark();
  void remember(uint64_t index);
  PickleValue* recall(uint64_t index);

  template <class T>
  PickleValue* make(T data) {
    charge(1);
    return &pickle_.values.emplace_back(PickleValue{std::move(data)});
  }
  PickleValue* make_integer(std::string_view little_endian);
  PickleValue* make_tuple(size_t count);
  void append(PickleList::Kind kind, const Items& items);
  void set_items(const Items& keys_and_values);
  // Counts values. Throws if one pickle makes too many. The pickle's size is not a limit: a pickle can ask for copies
  // of its values.
  void charge(size_t values);

  // Everything that a pickle may call and refer to; in unpickler_calls.cpp.
  PickleValue* call(const PickleValue& function, const PickleValue& arguments);
  PickleValue* call_torch(const PickleGlobal& function, const Items& arguments);
  PickleValue* ordered_dict(const Items& arguments);
  PickleValue* encoded_bytes(const Items& arguments);
  PickleValue* rebuild_tensor(const Items& arguments, Dtype dtype);
  void check_view(const PickleTensor& tensor) const;
  PickleValue* persistent(const PickleValue& id);
  void build(const PickleValue& object) const;

  [[noreturn]] void malformed(std::string_view what) const;
  [[noreturn]] void refuse(const PickleGlobal& global) const;

  std::string_view bytes_;
  const std::string& where_;
  size_t position_ = 0;
  size_t charged_ = 0;
  Pickle pickle_;
  Items stack_, memo_;
  std::vector<size_t> marks_;
};

}  // namespace lora
