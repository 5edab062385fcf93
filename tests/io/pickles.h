#pragma once
// Pickles written by hand.
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>

namespace lora {

template <class T>
std::string le(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

inline std::string cat(std::initializer_list<std::string_view> parts) {
  std::string all;
  for (auto part : parts) all += part;
  return all;
}

inline std::string text(const std::string& value) { return cat({"X", le(static_cast<uint32_t>(value.size())), value}); }
inline std::string global(const std::string& module, const std::string& name) {
  return cat({"c", module, "\n", name, "\n"});
}
inline std::string integer(int64_t value) { return cat({"\x8a\x08", le(value)}); }
inline std::string pickle(const std::string& body) { return cat({"\x80\x02", body, "."}); }

// A reference to storage "0", and a tensor on it: opcodes for the stack.
inline std::string storage(const std::string& type, int64_t numel, const std::string& key = "0") {
  return cat({"(", text("storage"), global("torch", type), text(key), text("cpu"), integer(numel), "tQ"});
}
inline std::string tensor(const std::string& on, int64_t offset, const std::string& sizes, const std::string& strides) {
  return cat({global("torch._utils", "_rebuild_tensor_v2"), "(", on, integer(offset), "(", sizes, "t(", strides,
              "t\x89", global("collections", "OrderedDict"), ")RtR"});
}
inline std::string small_tensor() { return tensor(storage("FloatStorage", 2), 0, integer(2), integer(1)); }
inline std::string dict(const std::string& items) { return cat({"}(", items, "u"}); }

// The older layout of torch.save around `object`, with one storage "0" of `storage_bytes`.
inline std::string legacy(const std::string& object, const std::string& storage_bytes, int64_t numel,
                          bool little = true) {
  std::string magic("\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19", 12);
  return cat({pickle(magic), pickle(cat({"M", le(uint16_t{1001})})),
              pickle(dict(cat({text("little_endian"), little ? "\x88" : "\x89"}))), object,
              pickle(cat({"]", text("0"), "a"})), le(numel), storage_bytes});
}
inline std::string legacy(const std::string& object) { return legacy(object, std::string(8, '\1'), 2); }

}  // namespace lora
