// From a file's keys to canonical tensors.
#include <ATen/ATen.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/check.h"
#include "core/text.h"
#include "dialects/bundled_embeddings.h"
#include "dialects/cloneofsimo.h"
#include "dialects/dialect.h"
#include "dialects/fused.h"
#include "dialects/other_files.h"

namespace lora {

namespace {

constexpr const char* kControlMark = "lora_controlnet";
constexpr const char* kControlLora = "the mark of a Control-LoRA, which adapts a ControlNet; no pipeline here has one";

// What wrappers leave inside names.
std::string cleaned(const std::string& key) {
  auto first = key.find_first_not_of(" \t\r\n"), last = key.find_last_not_of(" \t\r\n");
  auto clean = first == key.npos ? std::string() : key.substr(first, last - first + 1);
  for (const char* wrapper : {"_orig_mod.", "_fsdp_wrapped_module."}) clean = replace_all(clean, wrapper, "");
  if (clean.starts_with("module.")) clean.erase(0, std::string_view("module.").size());
  return replace_all(clean, ".module.", ".");
}

// One layer as the file has it, with the keys that its tensors came from.
struct FileLayer {
  std::string component, path;
  Module tensors;
  std::map<std::string, std::string> keys;
};

struct Reading {
  std::vector<FileLayer> layers;  // in the order of the file
  std::vector<size_t> hits;       // of each dialect
  std::vector<BundledEmbedding> embeddings;
  std::vector<LoadReport::Unmatched> unmatched;
};

Reading read_keys(const StateDict& file) {
  Reading reading{.hits = std::vector<size_t>(dialects().size())};
  std::unordered_map<std::string, size_t> where;
  for (const auto& [key, tensor] : file) {
    if (auto bundled = read_bundled_key(key)) {
      if (bundled->problem.empty())
        reading.embeddings.push_back({bundled->word, bundled->component, key, tensor});
      else
        reading.unmatched.push_back({key, bundled->problem});
      continue;
    }
    auto clean = cleaned(key);
    std::optional<CanonicalKey> read;
    for (size_t i = 0; i < dialects().size() && !read; ++i) {
      read = dialects()[i].read(clean);
      reading.hits[i] += read.has_value();
    }
    if (!read) {
      reading.unmatched.push_back({key, key == kControlMark ? kControlLora : "no known dialect has such a key"});
      continue;
    }
    auto [it, fresh] = where.emplace(read->component + "." + read->path, reading.layers.size());
    if (fresh) reading.layers.push_back({read->component, read->path, {}, {}});
    auto& layer = reading.layers[it->second];
    if (layer.tensors.emplace(read->suffix, tensor).second)
      layer.keys.emplace(read->suffix, key);
    else
      reading.unmatched.push_back({key, "another key of the file names the same tensor, " + layer.keys[read->suffix]});
  }
  return reading;
}

// `weight` means IA3 where the layer has on_input; otherwise it is a layer's own.
void drop_whole_weights(Reading& reading) {
  for (auto& layer : reading.layers)
    if (layer.tensors.contains("weight") && !layer.tensors.contains("on_input")) {
      reading.unmatched.push_back({layer.keys["weight"], "a whole weight, which no adapter has"});
      layer.tensors.erase("weight");
    }
}

// How wide Stable Diffusion 3's blocks are, as far as the file tells; 0 where it does not.
int64_t block_width(const Reading& reading) {
  for (const auto& layer : reading.layers)
    if (layer.path.starts_with("joint_blocks.") && !layer.path.ends_with(".mlp.fc2"))
      if (auto columns = columns_of(layer.tensors)) return columns;
  return 0;
}

// kohya trained each of q, k and v at alpha / r, and stored them in blocks of rank 3 r without saying so in the alpha.
bool is_split_qkv(const StateDict& file) {
  auto arguments = file.metadata.find("ss_network_args");
  if (arguments == file.metadata.end()) return false;
  auto json = nlohmann::json::parse(arguments->second, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("split_qkv")) return false;
  const auto& value = json["split_qkv"];
  return value == true || value == "True" || value == "true" || value == "1";
}

// The adapter's layers in diffusers' names.
class Namer {
 public:
  Namer(const Reading& reading, const StateDict& file, const std::string& denoiser, const std::string& label,
        Canonical& result)
      : denoiser_(denoiser),
        label_(label),
        block_width_(block_width(reading)),
        split_qkv_(is_split_qkv(file)),
        result_(result) {}

  void add(const FileLayer& layer) {
    auto component = layer.component.empty() ? denoiser_ : layer.component;
    auto native = native_layer(layer.path);
    if (!native) return put(component + "." + layer.path, layer.tensors, layer);
    auto where = label_ + ": " + layer.path;
    auto tensors = layer.tensors;
    if (swaps_halves(layer, native->halves)) tensors = with_halves_swapped(tensors, where);
    bool split = split_qkv_ && native->layers.size() > 1 && tensors.contains("lora_A.weight") &&
                 tensors.contains("lora_B.weight") && in_blocks(tensors, *native, where);
    for (const auto& [path, share] : native->layers) {
      auto part = share.whole() ? tensors : part_of(tensors, share, where);
      if (split) part = block_of(part, share);
      put(component + "." + path, part, layer);
    }
    if (split && !std::exchange(told_, true))
      result_.notes.push_back("split_qkv: each part of a fused layer has alpha / its own rank, as it was trained");
  }

 private:
  const std::string &denoiser_, &label_;
  int64_t block_width_;
  bool split_qkv_, told_ = false;
  Canonical& result_;

  bool swaps_halves(const FileLayer& layer, Halves halves) const {
    if (halves != Halves::swapped_if_two) return halves == Halves::swapped;
    auto rows = rows_of(layer.tensors);
    if (rows == 0) return false;  // it is all about inputs
    check(block_width_ > 0, ErrorKind::unsupported,
          "{}: {} does not tell whether it is the last block's, whose halves diffusers has the other way round", label_,
          layer.path);
    return rows == 2 * block_width_;
  }

  // The columns of a part's up factor, and the rows of its down factor, that are its own.
  static std::pair<int64_t, int64_t> block(const Module& part, Share share) {
    auto r = part.at("lora_A.weight").size(0) / share.of;
    return {r * share.begin, r * share.end};
  }

  // Whether the parts' factors stand in blocks of one rank, with nothing beside them.
  static bool in_blocks(const Module& whole, const NativeLayer& native, const std::string& where) {
    auto rank = whole.at("lora_A.weight").size(0);
    auto empty = [](const Tensor& t) { return at::count_nonzero(t).item<int64_t>() == 0; };
    for (const auto& [path, share] : native.layers) {
      if (rank % share.of != 0) return false;
      auto B = part_of(whole, share, where).at("lora_B.weight");
      auto [from, to] = block(whole, share);
      if (B.size(1) != rank || !empty(B.slice(1, 0, from)) || !empty(B.slice(1, to))) return false;
    }
    return true;
  }

  static Module block_of(Module part, Share share) {
    auto [from, to] = block(part, share);
    auto &A = part.at("lora_A.weight"), &B = part.at("lora_B.weight");
    A = A.slice(0, from, to);
    B = B.slice(1, from, to);
    return part;
  }

  // All tensors of the layer, or none where another spelling of it was there before: never one's down and the other's
  // up.
  void put(const std::string& path, const Module& tensors, const FileLayer& layer) {
    for (const auto& [suffix, tensor] : tensors)
      if (result_.tensors.contains(path + "." + suffix)) {
        for (const auto& [name, key] : layer.keys)
          result_.unmatched.push_back({key, "another key of the file names the same layer, " + path});
        return;
      }
    for (const auto& [suffix, tensor] : tensors) result_.tensors.set(path + "." + suffix, tensor);
  }
};

std::string spoken(const std::vector<size_t>& hits) {
  std::vector<std::pair<size_t, std::string>> found;
  for (size_t i = 0; i < hits.size(); ++i)
    if (hits[i]) found.emplace_back(hits[i], dialects()[i].name);
  std::stable_sort(found.begin(), found.end(), [](auto& a, auto& b) { return a.first > b.first; });
  std::vector<std::string> names;
  for (auto& [count, name] : found) names.push_back(name);
  return join(names, " + ");
}

// In Flux' pipeline T5 is the second text encoder.
void rename_flux_text_encoder(Reading& reading) {
  for (auto& layer : reading.layers)
    if (layer.component == "text_encoder_3") layer.component = "text_encoder_2";
}

}  // namespace

Canonical to_canonical(const StateDict& file, const std::string& denoiser, const std::string& label) {
  auto named = name_positions(file, label);
  const auto& tensors = named ? *named : file;
  auto reading = read_keys(tensors);
  drop_whole_weights(reading);

  Canonical result;
  result.tensors.metadata = file.metadata;
  result.architecture = architecture_of(tensors);
  result.dialect = named ? "cloneofsimo" : spoken(reading.hits);
  result.embeddings = std::move(reading.embeddings);
  result.unmatched = std::move(reading.unmatched);
  if (result.architecture.name == "Flux") rename_flux_text_encoder(reading);
  auto unnamed = !denoiser.empty() ? denoiser : denoiser_of(result.architecture.name);
  Namer namer(reading, file, unnamed, label, result);
  for (const auto& layer : reading.layers) namer.add(layer);
  check(!result.tensors.empty(), ErrorKind::bad_key, "{}: no LoRA in this file; {}", label, looks_like(file));
  return result;
}

}  // namespace lora
