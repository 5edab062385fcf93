#include "core/check.h"
#include "io/dtype.h"
#include "io/latin1.h"
#include "io/unpickler.h"

namespace lora {

namespace {

constexpr size_t kMostDimensions = 64;  // torch's own limit in most operations

std::string full_name(const PickleGlobal& global) {
  // Protocol 2 keeps Python 2's name of the module.
  return fmt::format("{}.{}", global.module == "__builtin__" ? "builtins" : global.module, global.name);
}

std::string_view text_of(const PickleValue& value) {
  if (auto* text = value.as<std::string_view>()) return *text;
  if (auto* bytes = value.as<PickleBytes>()) return bytes->data;
  return {};
}

bool is_true(const PickleValue& value) {
  auto* flag = value.as<bool>();
  return flag && *flag;
}

}  // namespace

PickleValue* Unpickler::call(const PickleValue& function, const PickleValue& arguments) {
  auto* global = function.as<PickleGlobal>();
  auto* tuple = arguments.as<PickleList>();
  if (!global) malformed("it calls a value that is not a function");
  if (!tuple || tuple->kind != PickleList::Kind::tuple) malformed("it calls a function without a tuple of arguments");
  const Items& items = tuple->items;

  std::string name = full_name(*global);
  if (name == "collections.OrderedDict") return ordered_dict(items);
  if (name == "_codecs.encode") return encoded_bytes(items);
  if (name == "builtins.set" || name == "builtins.frozenset") {
    auto* list = items.size() == 1 ? items[0]->as<PickleList>() : nullptr;
    if (!list) malformed("it makes a set from a value that is not a list");
    charge(list->items.size());
    return make(PickleList{PickleList::Kind::set, list->items});
  }
  // A tensor with attributes. Drops the attributes.
  if (name == "torch._tensor._rebuild_from_type_v2") {
    auto* inner = items.size() == 4 ? items[0]->as<PickleGlobal>() : nullptr;
    auto* type = items.size() == 4 ? items[1]->as<PickleGlobal>() : nullptr;
    auto* inner_items = items.size() == 4 ? items[2]->as<PickleList>() : nullptr;
    if (!inner || !type || !inner_items) malformed("a tensor with attributes is described wrongly");
    if (full_name(*type) != "torch.Tensor" && full_name(*type) != "torch.nn.parameter.Parameter") refuse(*type);
    return call_torch(*inner, inner_items->items);
  }
  return call_torch(*global, items);
}

PickleValue* Unpickler::call_torch(const PickleGlobal& function, const Items& items) {
  std::string name = full_name(function);
  auto want = [&](bool ok) {
    if (!ok) malformed(fmt::format("{} has {} arguments", name, items.size()));
  };
  auto storage_dtype = [&] {
    auto* storage = items[0]->as<const PickleStorage*>();
    return storage ? (*storage)->dtype : at::kByte;
  };
  if (name == "torch._utils._rebuild_tensor") {
    want(items.size() == 4);
    return rebuild_tensor(items, storage_dtype());
  }
  if (name == "torch._utils._rebuild_tensor_v2") {
    want(items.size() == 6 || items.size() == 7);
    return rebuild_tensor(items, storage_dtype());
  }
  if (name == "torch._utils._rebuild_tensor_v3") {
    want(items.size() == 7 || items.size() == 8);
    auto* global = items[6]->as<PickleGlobal>();
    if (!global) malformed("a tensor without a dtype");
    auto dtype = global->module == "torch" ? dtype_from_torch(global->name) : std::nullopt;
    check(dtype.has_value(), ErrorKind::unsupported, "{}: holds a tensor of dtype {}, which is not supported", where_,
          full_name(*global));
    return rebuild_tensor(items, *dtype);
  }
  if (name == "torch._utils._rebuild_parameter" || name == "torch._utils._rebuild_parameter_with_state" ||
      name == "torch.nn.parameter.Parameter") {
    want(!items.empty());
    return items[0];
  }
  if (name == "torch.Size") {
    want(items.size() == 1);
    return items[0];
  }
  if (name == "torch.device") return make(PickleNone{});
  refuse(function);
}

PickleValue* Unpickler::ordered_dict(const Items& arguments) {
  PickleDict dict;
  auto* pairs = arguments.size() == 1 ? arguments[0]->as<PickleList>() : nullptr;
  if (!pairs && !arguments.empty()) malformed("it makes an OrderedDict from a value that is not a list");
  if (pairs) {
    charge(pairs->items.size());
    for (auto* item : pairs->items) {
      auto* pair = item->as<PickleList>();
      if (!pair || pair->items.size() != 2) malformed("it makes an OrderedDict from items that are not pairs");
      dict.items.emplace_back(pair->items[0], pair->items[1]);
    }
  }
  return make(std::move(dict));
}

// In protocol 2, Python 3 writes bytes as text of U+0000 … U+00FF that the reader must encode as Latin-1.
PickleValue* Unpickler::encoded_bytes(const Items& arguments) {
  auto* text = arguments.size() == 2 ? arguments[0]->as<std::string_view>() : nullptr;
  if (!text || text_of(*arguments[1]) != "latin1") malformed("bytes in an unknown encoding");
  charge(text->size() / sizeof(PickleValue));
  auto bytes = to_latin1(*text);
  if (!bytes) malformed("bytes that are not Latin-1");
  return make(PickleBytes{pickle_.texts.emplace_back(std::move(*bytes))});
}

// (storage, storage offset, sizes, strides, …): the first arguments of every version of the function.
PickleValue* Unpickler::rebuild_tensor(const Items& arguments, Dtype dtype) {
  auto* storage = arguments[0]->as<const PickleStorage*>();
  auto* offset = arguments[1]->as<int64_t>();
  if (!storage || !offset) malformed("a tensor without storage or offset");
  auto integers = [&](const PickleValue& value) {
    auto* list = value.as<PickleList>();
    if (!list || list->items.size() > kMostDimensions) malformed("a tensor without proper sizes and strides");
    charge(list->items.size());
    std::vector<int64_t> numbers;
    for (auto* item : list->items) {
      auto* number = item->as<int64_t>();
      if (!number || *number < 0) malformed("a tensor with a size or stride that is not a whole number from 0");
      numbers.push_back(*number);
    }
    return numbers;
  };
  auto* metadata = arguments.size() > 6 ? arguments.back()->as<PickleDict>() : nullptr;
  for (size_t i = 0; metadata && i < metadata->items.size(); ++i)
    check(
        !is_true(*metadata->items[i].second), ErrorKind::unsupported,
        "{}: holds a tensor that is marked as conjugated or negated; save it again with .resolve_conj().resolve_neg()",
        where_);

  PickleTensor tensor{*storage, dtype, *offset, integers(*arguments[2]), integers(*arguments[3])};
  check_view(tensor);
  return make<const PickleTensor*>(&pickle_.tensors.emplace_back(std::move(tensor)));
}

void Unpickler::check_view(const PickleTensor& tensor) const {
  if (tensor.sizes.size() != tensor.strides.size()) malformed("a tensor with more sizes than strides, or fewer");
  bool overflow = tensor.offset < 0, empty = false;
  int64_t numel = 1, end = tensor.offset;  // the number of elements, and one past the last that is reached
  for (size_t i = 0; i < tensor.sizes.size(); ++i) {
    int64_t reach;
    empty |= tensor.sizes[i] == 0;
    overflow |= __builtin_mul_overflow(numel, std::max<int64_t>(tensor.sizes[i], 1), &numel);
    overflow |= __builtin_mul_overflow(std::max<int64_t>(tensor.sizes[i], 1) - 1, tensor.strides[i], &reach);
    overflow |= __builtin_add_overflow(end, reach, &end);
  }
  overflow |= !empty && __builtin_add_overflow(end, int64_t{1}, &end);
  overflow |= __builtin_mul_overflow(end, static_cast<int64_t>(c10::elementSize(tensor.dtype)), &end);
  if (overflow || (end > tensor.storage->nbytes && !empty)) malformed("a tensor that reaches past its storage");
}

// ("storage", class, key, location, elements[, view]), the tuple under which torch refers to bytes outside the pickle.
PickleValue* Unpickler::persistent(const PickleValue& id) {
  auto* tuple = id.as<PickleList>();
  if (!tuple || tuple->items.empty()) malformed("a reference to a storage that is not a tuple");
  const Items& items = tuple->items;
  // A whole module was saved: its class comes first. The class is only a name, and a call of it is an error.
  if (text_of(*items[0]) == "module" && items.size() > 1) return items[1];
  if (text_of(*items[0]) != "storage" || items.size() < 5) malformed("a reference to something other than a storage");

  auto* type = items[1]->as<PickleGlobal>();
  auto* key_number = items[2]->as<int64_t>();
  auto* numel = items[4]->as<int64_t>();
  if (!type || !numel || *numel < 0) malformed("a storage without type or size");
  PickleStorage storage;
  storage.key =
      key_number ? std::string_view(pickle_.texts.emplace_back(std::to_string(*key_number))) : text_of(*items[2]);
  storage.untyped = type->name == "UntypedStorage" || type->name == "_UntypedStorage";
  storage.numel = *numel;
  if (!storage.untyped) {
    auto dtype = type->module.starts_with("torch") ? dtype_from_storage(type->name) : std::nullopt;
    check(dtype.has_value(), ErrorKind::unsupported, "{}: holds a tensor of type {}, which is not supported", where_,
          full_name(*type));
    storage.dtype = *dtype;
  }
  auto itemsize = static_cast<int64_t>(c10::elementSize(storage.dtype));
  if (__builtin_mul_overflow(*numel, itemsize, &storage.nbytes)) malformed("a storage whose size overflows");

  auto* view = items.size() > 5 ? items[5]->as<PickleList>() : nullptr;  // (key, offset, elements), of torch before 1.0
  if (view) {
    auto* offset = view->items.size() == 3 ? view->items[1]->as<int64_t>() : nullptr;
    auto* size = view->items.size() == 3 ? view->items[2]->as<int64_t>() : nullptr;
    bool inside = offset && size && *offset >= 0 && *size >= 0 && *offset <= *numel && *size <= *numel - *offset;
    if (!inside) malformed("a view that reaches past its storage");
    storage.offset = *offset * itemsize;
    storage.nbytes = *size * itemsize;
  }
  return make<const PickleStorage*>(&pickle_.storages.emplace_back(storage));
}

// Sets the attributes of an OrderedDict (the _metadata of a state_dict). Drops them.
void Unpickler::build(const PickleValue& object) const {
  if (auto* global = object.as<PickleGlobal>()) refuse(*global);
  if (!object.as<PickleDict>()) malformed("it sets the state of a value that does not have a state");
}

void Unpickler::refuse(const PickleGlobal& global) const {
  fail(ErrorKind::unsupported,
       "{}: contains the Python object '{}'; only tensors and plain values are read from pickles; if you trust the "
       "file, load it in Python and save its tensors as safetensors",
       where_, full_name(global));
}

}  // namespace lora
