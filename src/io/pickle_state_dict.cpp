#include "io/pickle_state_dict.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <optional>
#include <tuple>

#include "core/check.h"

namespace lora {

namespace {

constexpr int kMostDepth = 32;
// A pickle may name the same tensors many times. All names and tensors together may have this many times the file's
// size, which is far more than valid files need.
constexpr uint64_t kMostSharing = 64;

class Flattener {
 public:
  Flattener(const MappedFile& file, const std::function<c10::Storage(const PickleStorage&)>& load)
      : where_(file.path().string()), most_(kMostSharing * file.size()), load_(load) {}

  StateDict run(const PickleValue& root) {
    const PickleValue* inner = state_dict_of(root);
    if (auto* only = inner ? nullptr : only_dict_with_tensors(root)) {
      for (const auto& [key, value] : root.as<PickleDict>()->items) {
        texts_only_ = value != only->second;
        add(*value, key_text(*key).value_or(""), 1);
      }
      return std::move(tensors_);
    }
    if (auto* list = root.as<PickleList>())
      for (size_t i = 0; i < list->items.size(); ++i) add(*list->items[i], std::to_string(i), 1);
    else
      add(inner ? *inner : root, "", 0);
    check(found_tensor_, ErrorKind::bad_file, "{}: holds no tensors", where_);
    return std::move(tensors_);
  }

 private:
  // The dict under "state_dict", or nullptr. The entries beside it are the trainer's: keeps texts as metadata.
  const PickleValue* state_dict_of(const PickleValue& root) {
    const PickleValue* found = nullptr;
    auto* dict = root.as<PickleDict>();
    for (size_t i = 0; dict && i < dict->items.size(); ++i)
      if (key_text(*dict->items[i].first) == "state_dict" && dict->items[i].second->as<PickleDict>())
        found = dict->items[i].second;
    for (size_t i = 0; found && i < dict->items.size(); ++i)
      if (dict->items[i].second->as<std::string_view>())
        add(*dict->items[i].second, key_text(*dict->items[i].first).value_or(""), 1);
    return found;
  }

  // The one entry that holds tensors, where the others are a trainer's: the LoRA under a name such as "lora_weights".
  // nullptr where tensors stand at the top, or in several dicts. Numbers beside it are no tensors.
  const std::pair<PickleValue*, PickleValue*>* only_dict_with_tensors(const PickleValue& root) {
    auto* dict = root.as<PickleDict>();
    const std::pair<PickleValue*, PickleValue*>* only = nullptr;
    for (size_t i = 0; dict && i < dict->items.size(); ++i) {
      const auto& item = dict->items[i];
      if (item.second->as<const PickleTensor*>()) return nullptr;
      if (!holds_tensors(*item.second, 1)) continue;
      if (only) return nullptr;
      only = &item;
    }
    return only;
  }

  bool holds_tensors(const PickleValue& value, int depth) {
    charge(1);
    if (value.as<const PickleTensor*>()) return true;
    auto* dict = value.as<PickleDict>();
    if (!dict || depth >= kMostDepth) return false;
    return std::any_of(dict->items.begin(), dict->items.end(),
                       [&](auto& item) { return holds_tensors(*item.second, depth + 1); });
  }

  void add(const PickleValue& value, const std::string& name, int depth) {
    charge(name.size() + 1);
    if (auto* dict = value.as<PickleDict>()) return add_items(*dict, name, depth);
    if (auto* tensor = value.as<const PickleTensor*>()) {
      found_tensor_ = true;
      tensors_.set(name, build(**tensor));
    } else if (texts_only_ && !value.as<std::string_view>()) {
      return;
    } else if (auto* integer = value.as<int64_t>()) {
      tensors_.set(name, at::scalar_tensor(*integer, at::kLong));
    } else if (auto* real = value.as<double>()) {
      tensors_.set(name, at::scalar_tensor(*real, at::kDouble));
    } else if (auto* flag = value.as<bool>()) {
      tensors_.set(name, at::scalar_tensor(*flag, at::kBool));
    } else if (auto* text = value.as<std::string_view>()) {
      charge(text->size());
      tensors_.metadata[name] = *text;
    }
  }

  void add_items(const PickleDict& dict, const std::string& name, int depth) {
    check(depth < kMostDepth, ErrorKind::bad_file, "{}: nests dicts more than {} deep", where_, kMostDepth);
    for (const auto& [key, value] : dict.items)
      if (auto text = key_text(*key)) add(*value, depth == 0 || name.empty() ? *text : name + "." + *text, depth + 1);
  }

  static std::optional<std::string> key_text(const PickleValue& key) {
    if (auto* text = key.as<std::string_view>()) return std::string(*text);
    if (auto* bytes = key.as<PickleBytes>()) return std::string(bytes->data);
    if (auto* number = key.as<int64_t>()) return std::to_string(*number);
    return std::nullopt;
  }

  Tensor build(const PickleTensor& tensor) {
    uint64_t numel = 1;
    for (int64_t size : tensor.sizes) numel *= static_cast<uint64_t>(size);
    charge(std::min(numel, most_ + 1) * c10::elementSize(tensor.dtype));
    if (!load_)
      return at::empty_strided(tensor.sizes, tensor.strides, at::TensorOptions(tensor.dtype).device(at::kMeta));
    const PickleStorage& wanted = *tensor.storage;
    auto [row, missing] = storages_.try_emplace({wanted.key, wanted.dtype, wanted.offset, wanted.nbytes});
    if (missing) row->second = load_(wanted);
    return tensor_on(row->second, tensor.dtype, tensor.sizes, tensor.strides, tensor.offset);
  }

  void charge(uint64_t bytes) {
    check(bytes <= most_ - charged_, ErrorKind::bad_file,
          "{}: its dicts and tensors repeat themselves to more than {} times the file's size", where_, kMostSharing);
    charged_ += bytes;
  }

  std::string where_;
  uint64_t most_, charged_ = 0;
  const std::function<c10::Storage(const PickleStorage&)>& load_;
  std::map<std::tuple<std::string_view, Dtype, int64_t, int64_t>, c10::Storage> storages_;
  StateDict tensors_;
  bool found_tensor_ = false, texts_only_ = false;
};

}  // namespace

StateDict pickle_state_dict(const Pickle& pickle, const MappedFile& file,
                            const std::function<c10::Storage(const PickleStorage&)>& load) {
  return Flattener(file, load).run(*pickle.root);
}

}  // namespace lora
