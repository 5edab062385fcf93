#include "files/listing.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <cctype>
#include <mutex>

#include "core/check.h"
#include "files/hashes.h"
#include "files/listing_cache.h"
#include "files/progress.h"
#include "hub/environment.h"
#include "io/public_call.h"

namespace lora {

namespace fs = std::filesystem;

namespace {

// Calls `work(i)` for each i below n. A thread takes the next one when it is done with one, for files differ in size.
template <class Work>
void for_each_file(size_t n, const ToolProgress& progress, Work work) {
  std::atomic<size_t> next = 0;
  std::mutex telling;
  int done = 0;
  at::parallel_for(0, at::get_num_threads(), 1, [&](int64_t begin, int64_t end) {
    for (auto thread = begin; thread < end; ++thread)
      for (size_t i; (i = next++) < n;) {
        work(i);
        if (!progress) continue;
        std::lock_guard lock(telling);
        progress(++done, static_cast<int>(n));
      }
  });
}

struct Read {
  ListedLora row;
  FileStamp stamp;
  std::string key;  // in the cache
  bool there = false, cached = false;
};

// Computes the hashes that are missing. Those that cannot be computed are noted.
void add_hashes(std::vector<Read>& files, const ToolProgress& progress, std::vector<std::string>& notes) {
  std::vector<Read*> wanted;
  for (auto& file : files)
    if (file.row.layers > 0 && file.row.hash.empty()) wanted.push_back(&file);
  std::mutex noting;
  for_each_file(wanted.size(), progress, [&](size_t i) {
    auto& file = *wanted[i];
    try {
      file.row.hash = a1111_hash(file.row.file);
      file.row.hash_from = "file";
      file.cached = false;
    } catch (const Error& error) {
      if (is_out_of_memory(error)) throw;
      std::lock_guard lock(noting);
      notes.push_back(fmt::format("no hash: {}", error.what()));
    }
  });
}

bool is_before(const std::string& a, const std::string& b) {
  return std::lexicographical_compare(a.begin(), a.end(), b.begin(), b.end(), [](unsigned char x, unsigned char y) {
    return std::tolower(x) < std::tolower(y);
  });
}

void sort(std::vector<ListedLora>& loras, LoraOrder order) {
  auto by_name = [](const ListedLora& a, const ListedLora& b) {
    return is_before(a.name, b.name) || (!is_before(b.name, a.name) && a.file < b.file);
  };
  auto base = [](const ListedLora& row) {
    return std::pair(row.base_model == BaseModel::unknown, to_string(row.base_model));
  };
  std::sort(loras.begin(), loras.end(), by_name);
  std::stable_sort(loras.begin(), loras.end(), [&](const ListedLora& a, const ListedLora& b) {
    switch (order) {
      case LoraOrder::name: break;
      case LoraOrder::base: return base(a) < base(b);
      case LoraOrder::rank: return a.max_rank > b.max_rank;
      case LoraOrder::date: return a.modified > b.modified;
      case LoraOrder::size: return a.size > b.size;
    }
    return false;
  });
}

}  // namespace

LoraList list_files(const fs::path& folder, const FolderSearch& search, const ListLorasOptions& options) {
  LoraList list{.notes = search.notes};
  ListingCache cache(options.cache, list.notes);
  const auto place = (place_of(folder) / "").string();
  std::vector<Read> files(search.files.size());
  PublishedModels models;
  for_each_file(files.size(), options.progress, [&](size_t i) {
    auto& file = files[i];
    const auto& path = search.files[i];
    auto stamp = stamp_of(path);
    if (!stamp) return;  // removed meanwhile
    auto inside = path.lexically_relative(folder);
    file.key = place + inside.string();
    auto known = cache.find(file.key, *stamp);
    file.there = true;
    file.cached = known.has_value();
    file.row = known ? std::move(*known) : read_row(path, models);
    file.row.file = path;
    file.row.name = (inside.parent_path() / inside.stem()).string();
    file.row.size = stamp->size;
    file.row.modified = stamp->time();
    file.stamp = *stamp;
  });
  std::erase_if(files, [](auto& file) { return !file.there; });
  std::set<std::string> seen;
  for (const auto& file : files) seen.insert(file.key);

  auto is_left_out = [&](const Read& file) {
    const auto& wanted = options.base_models;
    return !wanted.empty() && std::find(wanted.begin(), wanted.end(), file.row.base_model) == wanted.end();
  };
  auto left_out = std::stable_partition(files.begin(), files.end(), [&](auto& file) { return !is_left_out(file); });
  std::vector<Read> listed(std::make_move_iterator(files.begin()), std::make_move_iterator(left_out));
  files.erase(files.begin(), left_out);
  if (options.hash) add_hashes(listed, options.progress, list.notes);
  for (auto* some : {&listed, &files})
    for (const auto& file : *some)
      if (!file.cached) cache.put(file.key, file.stamp, file.row);
  cache.save(place, seen);

  for (auto& file : listed) list.loras.push_back(std::move(file.row));
  sort(list.loras, options.sort);
  return list;
}

LoraList list_loras(const fs::path& folder, const ListLorasOptions& options) {
  return public_call([&] {
    auto inner = options;
    inner.progress = as_callers(options.progress);
    return list_files(folder, FolderSearch(folder), inner);
  });
}

fs::path lora_list_cache() {
  return edge([] { return cache_home() / "lora.cpp" / "loras.cbor"; });
}

}  // namespace lora
