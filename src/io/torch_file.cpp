#include "io/torch_file.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "core/check.h"
#include "core/text.h"
#include "core/utf8.h"
#include "io/pickle_state_dict.h"
#include "io/zip.h"

namespace lora {

namespace {

// The older layout begins with this number and the layout's version.
constexpr std::string_view kMagic = "\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";
constexpr int64_t kLayout = 1001;

c10::Storage copy_of(std::string_view bytes) {
  Tensor copy = at::empty({static_cast<int64_t>(bytes.size())}, at::kByte);
  if (!bytes.empty()) std::memcpy(copy.data_ptr(), bytes.data(), bytes.size());
  return copy.storage();
}

// The part `wanted` of its storage's bytes, which are in the mapping.
c10::Storage part_of(const MappedFile& file, std::string_view storage, const PickleStorage& wanted) {
  auto bytes = storage.substr(static_cast<size_t>(wanted.offset), static_cast<size_t>(wanted.nbytes));
  auto position = static_cast<size_t>(bytes.data() - file.bytes().data());
  size_t alignment = wanted.untyped ? 8 : c10::elementSize(wanted.dtype);  // 8: a tensor of any dtype may use it
  return position % alignment == 0 ? file.storage(position, bytes.size()) : copy_of(bytes);
}

std::string_view record_prefix(const ZipFile& zip, const std::string& where) {
  constexpr std::string_view kPickle = "/data.pkl";
  for (const auto& [name, record] : zip.records())
    if (name.ends_with(kPickle) && name.find('/') == name.size() - kPickle.size())
      return name.substr(0, name.size() - kPickle.size() + 1);
  // A download that was packed: what is in it may be what is wanted.
  std::vector<std::string> weights, others;
  for (const auto& [name, record] : zip.records()) {
    if (name.ends_with('/')) continue;
    auto is_weights = [&](std::string_view end) { return name.ends_with(end); };
    static constexpr std::string_view kEnds[] = {".safetensors", ".ckpt", ".pt", ".pth", ".bin"};
    (std::any_of(std::begin(kEnds), std::end(kEnds), is_weights) ? weights : others).emplace_back(name);
  }
  std::sort(weights.begin(), weights.end());
  std::sort(others.begin(), others.end());
  check(weights.empty(), ErrorKind::bad_file,
        "{}: is a zip archive that torch.save did not write; it holds {}: unpack it (unzip), and give that file", where,
        listing(weights, 3));
  fail(ErrorKind::bad_file, "{}: is a zip archive without a data.pkl; torch.save did not write it; it holds {}", where,
       others.empty() ? "nothing" : listing(others, 3));
}

}  // namespace

StateDict read_torch_zip(const MappedFile& file, Content content) {
  std::string where = file.path().string();
  ZipFile zip(file.bytes(), where);
  std::string prefix(record_prefix(zip, where));
  check(!zip.find(prefix + "constants.pkl"), ErrorKind::unsupported,
        "{}: is a TorchScript program; wanted the tensors of a state_dict", where);
  auto* order = zip.find(prefix + "byteorder");
  check(!order || (order->deflated ? zip.inflate(*order) : zip.stored(*order)) != "big", ErrorKind::unsupported,
        "{}: was written on a big-endian machine; save it again on a little-endian one", where);

  const ZipRecord& record = *zip.find(prefix + "data.pkl");
  std::string unpacked = record.deflated ? zip.inflate(record) : "";
  Pickle pickle = unpickle(record.deflated ? unpacked : zip.stored(record), where);
  if (content == Content::sizes) return pickle_state_dict(pickle, file, {});
  return pickle_state_dict(pickle, file, [&](const PickleStorage& wanted) {
    auto* data = zip.find(fmt::format("{}data/{}", prefix, wanted.key));
    check(data, ErrorKind::bad_file, "{}: has no record for storage {}", where, wanted.key);
    auto need = static_cast<uint64_t>(wanted.numel) * c10::elementSize(wanted.dtype);
    check(data->size >= need, ErrorKind::bad_file, "{}: storage {} has {} bytes; its tensors need {}", where,
          wanted.key, data->size, need);
    if (!data->deflated) return part_of(file, zip.stored(*data), wanted);
    auto bytes = zip.inflate(*data);
    return copy_of(
        std::string_view(bytes).substr(static_cast<size_t>(wanted.offset), static_cast<size_t>(wanted.nbytes)));
  });
}

namespace {

// The pickles before the storages in the older layout.
struct LegacyHeader {
  Pickle object, keys;
  size_t data = 0;  // the position where the storages begin
};

bool little_endian(const PickleValue& info) {
  auto* dict = info.as<PickleDict>();
  if (!dict) return true;
  for (const auto& [key, value] : dict->items) {
    auto* name = key->as<std::string_view>();
    auto* flag = value->as<bool>();
    if (name && *name == "little_endian" && flag) return *flag;
  }
  return true;
}

LegacyHeader read_legacy_header(const MappedFile& file, const std::string& where) {
  size_t position = 0;
  auto next = [&] {
    Pickle pickle = unpickle(file.bytes().substr(position), where);
    position += pickle.size;
    return pickle;
  };
  Pickle first = next();
  auto* magic = first.root->as<PickleBigInt>();
  check(magic && magic->data == kMagic, ErrorKind::unsupported,
        "{}: is a Python pickle that torch.save did not write; save its tensors with torch.save or as safetensors",
        where);
  Pickle second = next();
  auto* layout = second.root->as<int64_t>();
  check(layout && *layout == kLayout, ErrorKind::unsupported, "{}: is a torch file of an unknown layout; wanted {}",
        where, kLayout);
  check(little_endian(*next().root), ErrorKind::unsupported,
        "{}: was written on a big-endian machine; save it again on a little-endian one", where);
  LegacyHeader header{next(), next()};
  header.data = position;
  return header;
}

// The bytes of each storage by its key. The file has, for each key in the order of the list, the number of elements (8
// bytes) and then the elements.
std::unordered_map<std::string_view, std::string_view> locate_storages(const MappedFile& file,
                                                                       const LegacyHeader& header,
                                                                       const std::string& where) {
  std::unordered_map<std::string_view, const PickleStorage*> by_key;
  for (const auto& storage : header.object.storages) by_key.emplace(storage.key, &storage);
  auto* keys = header.keys.root->as<PickleList>();
  check(keys, ErrorKind::bad_file, "{}: has no list of its storages", where);

  std::unordered_map<std::string_view, std::string_view> found;
  auto rest = file.bytes().substr(header.data);
  for (auto* item : keys->items) {
    auto* key = item->as<std::string_view>();
    auto row = key ? by_key.find(*key) : by_key.end();
    check(row != by_key.end(), ErrorKind::bad_file, "{}: lists a storage that no tensor has", where);
    const PickleStorage& storage = *row->second;
    auto numel = static_cast<uint64_t>(storage.numel), size = numel * c10::elementSize(storage.dtype);
    check(rest.size() >= 8 && rest.size() - 8 >= size, ErrorKind::bad_file,
          "{}: ends inside storage {}; the file is cut off", where, *key);
    uint64_t length;
    std::memcpy(&length, rest.data(), 8);
    check(length == numel, ErrorKind::bad_file, "{}: storage {} has {} elements; its tensors say {}", where, *key,
          length, numel);
    found.emplace(*key, rest.substr(8, size));
    rest.remove_prefix(8 + size);
  }
  return found;
}

}  // namespace

StateDict read_torch_legacy(const MappedFile& file, Content content) {
  std::string where = file.path().string();
  LegacyHeader header = read_legacy_header(file, where);
  if (content == Content::sizes) return pickle_state_dict(header.object, file, {});
  auto storages = locate_storages(file, header, where);
  return pickle_state_dict(header.object, file, [&](const PickleStorage& wanted) {
    auto row = storages.find(wanted.key);
    check(row != storages.end(), ErrorKind::bad_file, "{}: has no data for storage {}", where, wanted.key);
    bool same = static_cast<uint64_t>(wanted.numel) * c10::elementSize(wanted.dtype) == row->second.size();
    check(same, ErrorKind::bad_file, "{}: storage {} is described in two ways", where, wanted.key);
    return part_of(file, row->second, wanted);
  });
}

}  // namespace lora
