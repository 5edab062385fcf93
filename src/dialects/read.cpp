// From a file's keys to layers in diffusers' names.
#include <ATen/ATen.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/check.h"
#include "core/text.h"
#include "dialects/base_model_of.h"
#include "dialects/bundled_embeddings.h"
#include "dialects/cloneofsimo.h"
#include "dialects/dialect.h"
#include "dialects/other_files.h"
#include "io/mapped_file.h"
#include "kinds/kinds.h"
#include "names/base_model.h"
#include "names/native.h"

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

// Strengths lie all over a file, and the pages around each come with it: given back as we go, they do not add up.
class Strengths {
 public:
  Strengths(std::span<const std::shared_ptr<const MappedFile>> mapped, const std::string& label)
      : mapped_(mapped), label_(label) {}

  double read(const std::string& key, const Tensor& t) {
    check(t.defined() && t.numel() == 1, ErrorKind::bad_shape, "{}: {} holds {} numbers; one was expected", label_, key,
          t.defined() ? t.numel() : 0);
    auto value = number(t);
    constexpr size_t kOften = 128;
    if (++read_ % kOften == 0)
      for (const auto& file : mapped_) file->release_pages();
    return value;
  }

 private:
  std::span<const std::shared_ptr<const MappedFile>> mapped_;
  const std::string& label_;
  size_t read_ = 0;
};

// The layers as the file has them: paths may be native.
struct Reading {
  std::vector<LoraLayer> layers;
  std::vector<size_t> hits;  // of each dialect
  std::vector<BundledEmbedding> embeddings;
  std::vector<LoadReport::Unmatched> unmatched;
};

std::optional<LayerKey> read_key(const std::string& key, std::vector<size_t>& hits) {
  auto clean = cleaned(key);
  for (size_t i = 0; i < dialects().size(); ++i)
    if (auto read = dialects()[i].read(clean)) {
      ++hits[i];
      return read;
    }
  return std::nullopt;
}

Reading read_keys(const StateDict& file, Strengths& strengths) {
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
    auto read = read_key(key, reading.hits);
    if (!read) {
      reading.unmatched.push_back({key, key == kControlMark ? kControlLora : "no known dialect has such a key"});
      continue;
    }
    if (read->suffix == kScale && tensor.numel() != 1) {
      reading.unmatched.push_back({key, fmt::format("a scale of {} numbers, which is not a strength", tensor.numel())});
      continue;
    }
    auto [it, fresh] = where.emplace(read->component + "." + read->path, reading.layers.size());
    if (fresh) reading.layers.push_back({.component = read->component, .path = read->path});
    auto& layer = reading.layers[it->second];
    auto [known, is_new] = layer.keys.emplace(read->suffix, key);
    if (!is_new)
      reading.unmatched.push_back({key, "another key of the file names the same tensor, " + known->second});
    else if (read->suffix == kAlpha)
      layer.alpha = strengths.read(key, tensor);
    else if (read->suffix == kScale)
      layer.scale = strengths.read(key, tensor);
    else
      layer.tensors.emplace(read->suffix, tensor);
  }
  return reading;
}

// Tensors that are no adapter's without another one.
void drop_lone_tensors(Reading& reading) {
  for (auto& layer : reading.layers) {
    std::erase_if(layer.tensors, [&](auto& entry) {
      auto* row = name_row(entry.first);
      if (row->only_beside.empty() || layer.tensors.contains(row->only_beside)) return false;
      reading.unmatched.push_back({layer.keys[entry.first], std::string(row->otherwise)});
      return true;
    });
  }
  std::erase_if(reading.layers, [](auto& layer) { return layer.tensors.empty() && !layer.alpha && !layer.scale; });
}

// How wide Stable Diffusion 3's blocks are, as far as the file tells; 0 where it does not.
int64_t block_width(const Reading& reading) {
  for (const auto& layer : reading.layers)
    if (layer.path.starts_with("joint_blocks.") && !layer.path.ends_with(".mlp.fc2"))
      if (auto columns = size_of(layer.tensors).columns) return columns;
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

// Gives the layers diffusers' names.
class Namer {
 public:
  Namer(const Reading& reading, const StateDict& file, const std::string& denoiser, LoraFile& result)
      : denoiser_(denoiser), block_width_(block_width(reading)), split_qkv_(is_split_qkv(file)), result_(result) {}

  void add(LoraLayer layer) {
    if (layer.component.empty()) layer.component = denoiser_;
    auto native = native_layer(layer.path);
    if (!native) return put(std::move(layer));
    auto where = result_.source + ": " + layer.path;
    if (swaps_halves(layer, native->halves)) layer = with_halves_swapped(layer, where);
    auto parts = cut_all(layer, *native, where);
    auto blocks = split_qkv_ && parts.size() > 1 ? own_blocks(parts, *native) : std::vector<LoraLayer>();
    if (!blocks.empty() && !std::exchange(told_, true))
      result_.notes.push_back("split_qkv: each part of a fused layer has alpha / its own rank, as it was trained");
    for (auto& part : blocks.empty() ? parts : blocks) put(std::move(part));
  }

 private:
  const std::string& denoiser_;
  int64_t block_width_;
  bool split_qkv_, told_ = false;
  LoraFile& result_;
  std::unordered_map<std::string, size_t> where_;

  bool swaps_halves(const LoraLayer& layer, Halves halves) const {
    if (halves != Halves::swapped_if_two) return halves == Halves::swapped;
    auto rows = size_of(layer.tensors).rows;
    if (rows == 0) return false;  // it is all about inputs
    check(
        block_width_ > 0, ErrorKind::unsupported,
        "{}: nothing tells whether {} is the layer of the last block. diffusers stores the halves of that layer in the "
        "other order",
        result_.source, layer.path);
    return rows == 2 * block_width_;
  }

  static std::vector<LoraLayer> cut_all(const LoraLayer& layer, const NativeLayer& native, const std::string& where) {
    std::vector<LoraLayer> parts;
    for (const auto& [path, rows] : native.layers) {
      parts.push_back(cut(layer, rows, where));
      parts.back().path = path;
    }
    return parts;
  }

  // The parts' own factors; nothing where some part has none of its own.
  static std::vector<LoraLayer> own_blocks(const std::vector<LoraLayer>& parts, const NativeLayer& native) {
    std::vector<LoraLayer> blocks;
    for (size_t i = 0; i < parts.size(); ++i) {
      auto* kind = kind_of(parts[i].tensors);
      auto block = kind ? kind->own_block(parts[i], native.layers[i].rows) : std::nullopt;
      if (!block) return {};
      blocks.push_back(std::move(*block));
    }
    return blocks;
  }

  // All tensors of the layer, or none where another spelling of it was there before: never one's down and the other's
  // up.
  void put(LoraLayer layer) {
    auto [it, fresh] = where_.emplace(layer.name(), result_.layers.size());
    if (fresh) return result_.layers.push_back(std::move(layer));
    auto& there = result_.layers[it->second];
    bool twice =
        std::any_of(layer.keys.begin(), layer.keys.end(), [&](auto& k) { return there.keys.contains(k.first); });
    if (twice) {
      for (const auto& [name, key] : layer.keys)
        result_.unmatched.push_back({key, "another key of the file names the same layer, " + layer.name()});
      return;
    }
    there.tensors.merge(layer.tensors);
    there.keys.merge(layer.keys);
    if (layer.alpha) there.alpha = layer.alpha;
    if (layer.scale) there.scale = layer.scale;
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

std::vector<LayerTrace> traces(const std::vector<LoraLayer>& layers) {
  std::vector<LayerTrace> all;
  for (const auto& layer : layers) all.push_back({layer.component, layer.path, size_of(layer.tensors).columns});
  return all;
}

// The T5 encoder is read as the third text encoder. A pipeline with two has it in the second place.
void place_t5(Reading& reading, const BaseModelRow& base_model) {
  if (base_model.component("text_encoder_3") || !base_model.component("text_encoder_2")) return;
  for (auto& layer : reading.layers)
    if (layer.component == "text_encoder_3") layer.component = "text_encoder_2";
}

}  // namespace

LoraFile to_lora_file(const StateDict& file, const std::string& denoiser, const std::string& label,
                      std::span<const std::shared_ptr<const MappedFile>> mapped) {
  auto named = name_positions(file, label);
  Strengths strengths(mapped, label);
  auto reading = read_keys(named ? *named : file, strengths);
  drop_lone_tensors(reading);

  auto [base_model, cross_attention] = base_model_of(traces(reading.layers), file.metadata);
  LoraFile result{.base_model = base_model,
                  .cross_attention = cross_attention,
                  .dialect = named ? "cloneofsimo" : spoken(reading.hits),
                  .source = label,
                  .metadata = file.metadata,
                  .embeddings = std::move(reading.embeddings),
                  .unmatched = std::move(reading.unmatched)};
  auto* row = row_of(base_model);
  auto unnamed = !denoiser.empty() ? denoiser : std::string(row ? row->denoiser() : "unet");
  if (row) place_t5(reading, *row);
  Namer namer(reading, file, unnamed, result);
  for (auto& layer : reading.layers) namer.add(std::move(layer));
  for (auto& layer : result.layers) layer.kind = kind_name(layer.tensors);
  check(!result.layers.empty(), ErrorKind::bad_key, "{}: no LoRA in this file; {}", label, looks_like(file));
  return result;
}

}  // namespace lora
