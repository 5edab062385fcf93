#include "io/sharded.h"

#include "core/check.h"
#include "io/json_file.h"

namespace lora {

namespace {

// Tensor name to file name.
using WeightMap = std::map<std::string, std::string>;

WeightMap read_weight_map(const std::filesystem::path& index) {
  auto json = read_json(index);
  check(json.is_object() && json.contains("weight_map"), ErrorKind::bad_file,
        "{}: is JSON without a weight_map; wanted a tensor file or the index of a sharded checkpoint", index.string());
  const auto& rows = json["weight_map"];
  check(rows.is_object() && !rows.empty(), ErrorKind::bad_file,
        "{}: its weight_map is not an object that names a file for each tensor", index.string());
  WeightMap map;
  for (const auto& [tensor, file] : rows.items()) {
    check(file.is_string(), ErrorKind::bad_file, "{}: weight_map has no file name for tensor \"{}\"", index.string(),
          tensor);
    auto name = file.get<std::string>();
    // Only a plain name: an index must not open files in another folder.
    bool plain =
        !name.empty() && name != "." && name != ".." && name.find_first_of(std::string_view("/\\\0", 3)) == name.npos;
    check(plain, ErrorKind::bad_file,
          "{}: weight_map places tensor \"{}\" in {}; wanted the name of a file beside the index", index.string(),
          tensor, nlohmann::json(name).dump());
    map[tensor] = name;
  }
  return map;
}

std::set<std::string> files_in(const WeightMap& map) {
  std::set<std::string> files;
  for (const auto& [tensor, file] : map) files.insert(file);
  return files;
}

}  // namespace

std::set<std::string> shards_of(const std::filesystem::path& index) { return files_in(read_weight_map(index)); }

StateDict read_sharded(const std::filesystem::path& index,
                       const std::function<StateDict(const std::filesystem::path&)>& load) {
  WeightMap map = read_weight_map(index);
  auto shards = files_in(map);
  for (const auto& name : shards)
    check(std::filesystem::exists(index.parent_path() / name), ErrorKind::not_found,
          "{}: lists the shard {}, which is not beside it", index.string(), name);

  StateDict all;
  for (const auto& name : shards) {
    StateDict shard = load(index.parent_path() / name);
    all.metadata.merge(shard.metadata);
    for (const auto& [tensor, value] : shard) {
      auto row = map.find(tensor);
      if (row == map.end() || row->second == name) all.set(tensor, value);
    }
  }
  for (const auto& [tensor, name] : map)
    check(all.contains(tensor), ErrorKind::bad_file, "{}: tensor \"{}\" should be in {}, but is not there",
          index.string(), tensor, name);
  return all;
}

}  // namespace lora
