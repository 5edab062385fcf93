// From a file's keys to layers in diffusers' names.
#include <ATen/ATen.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/check.h"
#include "core/text.h"
#include "dialects/base_model_of.h"
#include "dialects/bundled_embeddings.h"
#include "dialects/canonical.h"
#include "dialects/cloneofsimo.h"
#include "dialects/dialect.h"
#include "dialects/evidence.h"
#include "dialects/left_out.h"
#include "dialects/other_files.h"
#include "dialects/several_adapters.h"
#include "io/mapped_file.h"
#include "kinds/diff.h"
#include "kinds/kinds.h"
#include "kinds/lora.h"
#include "names/base_model.h"
#include "names/module_words.h"
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
  Strengths(std::span<const std::shared_ptr<const MappedFile>> mapped, Content content)
      : mapped_(mapped), content_(content) {}

  // Nothing where only sizes are there.
  std::optional<double> read(const std::string& key, const Tensor& t) {
    if (content_ == Content::sizes) return std::nullopt;
    auto value = read_strength(key, t);
    constexpr size_t kOften = 128;
    if (++read_ % kOften == 0)
      for (const auto& file : mapped_) file->release_pages();
    return value;
  }

 private:
  std::span<const std::shared_ptr<const MappedFile>> mapped_;
  Content content_;
  size_t read_ = 0;
};

// The layers as the file has them: paths may be native.
struct Reading {
  std::vector<LoraLayer> layers;
  std::vector<size_t> hits;  // of each dialect
  std::vector<BundledEmbedding> embeddings;
  std::vector<LoadReport::Unmatched> unmatched;
  std::vector<LoadReport::Unmatched> not_understood;  // may be parts of adapters
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

// Whether an embedding's factors have the names of kohya's family, which has them the other way round than PEFT.
bool has_kohyas_factors(const LoraLayer& layer) {
  return std::any_of(layer.keys.begin(), layer.keys.end(), [](auto& entry) {
    auto has = [&](const char* part) { return entry.second.find(part) != std::string::npos; };
    return (entry.first == kDown || entry.first == kUp) && !has("lora_A") && !has("lora_B") && !has("lora_embedding_");
  });
}

// Whether the layer has these very numbers under the suffix.
bool holds(const LoraLayer& layer, std::string_view suffix, const std::string& key, const Tensor& tensor,
           Strengths& strengths) {
  if (suffix == kAlpha) return layer.alpha == strengths.read(key, tensor);
  if (suffix == kScale) return layer.scale == strengths.read(key, tensor);
  return are_equal(layer.tensors.find(suffix)->second, tensor);
}

Reading read_keys(const StateDict& file, Strengths& strengths) {
  Reading reading{.hits = std::vector<size_t>(dialects().size())};
  std::unordered_map<std::string, size_t> where;
  Repeats repeats;
  for (const auto& [key, tensor] : file) {
    if (auto bundled = read_bundled_key(key)) {
      if (bundled->problem.empty())
        reading.embeddings.push_back({bundled->word, bundled->component, key, tensor});
      else
        reading.unmatched.push_back({key, bundled->problem});
      continue;
    }
    auto read = read_key(key, reading.hits);
    if (!read && key == kControlMark) {
      reading.unmatched.push_back({key, kControlLora});
      continue;
    }
    if (!read) {
      reading.not_understood.push_back({key, why_not_read(key)});
      continue;
    }
    if (read->suffix == kNoEffect) {
      reading.unmatched.push_back({key, "a copy that no program reads, beside the tensor that counts"});
      continue;
    }
    if (read->suffix == kScale && tensor.defined() && tensor.numel() != 1) {
      reading.not_understood.push_back(
          {key, fmt::format("a scale of {} numbers, which is not a strength", tensor.numel())});
      continue;
    }
    auto [it, fresh] = where.emplace(read->component + "." + read->path, reading.layers.size());
    if (fresh) reading.layers.push_back({.component = read->component, .path = read->path});
    auto& layer = reading.layers[it->second];
    auto [known, is_new] = layer.keys.emplace(read->suffix, key);
    if (!is_new && holds(layer, read->suffix, key, tensor, strengths)) {
      reading.unmatched.push_back({key, "the same numbers as " + known->second});
      repeats[it->second].emplace(read->suffix, key);
    } else if (!is_new)
      reading.not_understood.push_back({key, fmt::format(kDiffers, known->second, "tensor")});
    else if (read->suffix == kAlpha)
      layer.alpha = strengths.read(key, tensor);
    else if (read->suffix == kScale)
      layer.scale = strengths.read(key, tensor);
    else
      layer.tensors.emplace(read->suffix, tensor);
  }
  for (auto& layer : reading.layers)
    if (has_kohyas_factors(layer)) turn_embedding(layer);
  add_repeats_without_strength(reading.layers, repeats, reading.not_understood);
  return reading;
}

// Tensors that are no adapter's without another one, and whole biases in a file without adapters.
std::vector<LoadReport::Unmatched> take_lone_tensors(std::vector<LoraLayer>& layers) {
  std::vector<LoadReport::Unmatched> lone;
  auto take = [&](auto is_lone) {
    for (auto& layer : layers)
      std::erase_if(layer.tensors, [&](auto& entry) {
        auto reason = is_lone(layer, entry.first);
        if (reason.empty()) return false;
        auto key = layer.keys.find(entry.first);
        lone.push_back({key->second, std::string(reason)});
        layer.keys.erase(key);
        return true;
      });
  };
  take([](const LoraLayer& layer, const std::string& suffix) {
    auto* row = name_row(suffix);
    return row->only_beside.empty() || layer.tensors.contains(row->only_beside) ? "" : row->otherwise;
  });
  auto is_bias_alone = [](const LoraLayer& layer) {
    return layer.tensors.empty() || (layer.tensors.size() == 1 && layer.tensors.contains(kWholeBias));
  };
  if (std::all_of(layers.begin(), layers.end(), is_bias_alone))
    take([](const LoraLayer&, const std::string&) -> std::string_view {
      return "a whole bias, in a file without adapters";
    });
  std::erase_if(layers, [](auto& layer) { return layer.tensors.empty() && !layer.alpha && !layer.scale; });
  return lone;
}

// Sorts what was not understood into what is a part of an adapter, and what is not.
std::vector<LoadReport::Unmatched> take_left_out(Reading& reading, const StateDict& file) {
  auto whole = take_lone_tensors(reading.layers);
  auto left_out = parts_of_adapters(reading.not_understood, file, reading.layers);
  // A whole weight replaces the model's, so that it has an effect.
  left_out.insert(left_out.end(), whole.begin(), whole.end());
  for (auto* some : {&reading.not_understood, &whole})
    reading.unmatched.insert(reading.unmatched.end(), some->begin(), some->end());
  return left_out;
}

// A flat name in words that no model of this project's has.
bool is_flat(const LoraLayer& layer) {
  return layer.path.find('.') == layer.path.npos && layer.path.find('_') != layer.path.npos && !unflatten(layer.path);
}

// Such names are of a model that is known by name only, or of none. In a file for another model they are not
// understood.
void drop_flat_names(Reading& reading, const BaseModelRow* row, std::vector<LoadReport::Unmatched>& left_out) {
  bool all_flat = std::all_of(reading.layers.begin(), reading.layers.end(), is_flat);
  if (row ? row->is_foreign() : all_flat) return;
  std::erase_if(reading.layers, [&](auto& layer) {
    if (!is_flat(layer)) return false;
    for (const auto& [suffix, key] : layer.keys) left_out.push_back({key, "no known model has a layer of this name"});
    reading.unmatched.insert(reading.unmatched.end(), left_out.end() - ptrdiff_t(layer.keys.size()), left_out.end());
    return true;
  });
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
  // `layout`: of the native names that the file may have.
  Namer(const Reading& reading, const StateDict& file, const std::string& denoiser, NativeNames layout,
        LoraFile& result)
      : denoiser_(denoiser),
        layout_(layout),
        block_width_(block_width(reading)),
        split_qkv_(is_split_qkv(file)),
        result_(result) {}

  void add(LoraLayer layer) {
    if (layer.component.empty()) layer.component = denoiser_;
    auto native = native_layer(layer.path, layout_);
    if (!native) return put(std::move(layer));
    auto where = result_.source + ": " + layer.path;
    if (swaps_halves(layer, native->halves)) layer = with_halves_swapped(layer, where);
    auto parts = cut_all(layer, *native, where);
    auto blocks = split_qkv_ && parts.size() > 1 ? own_blocks(parts) : std::vector<LoraLayer>();
    if (!blocks.empty() && !std::exchange(told_, true))
      result_.notes.push_back("split_qkv: each part of a fused layer has alpha / its own rank, as it was trained");
    for (auto& part : blocks.empty() ? parts : blocks) put(std::move(part));
  }

 private:
  const std::string& denoiser_;
  NativeNames layout_;
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
  static std::vector<LoraLayer> own_blocks(const std::vector<LoraLayer>& parts) {
    std::vector<LoraLayer> blocks;
    for (size_t i = 0; i < parts.size(); ++i) {
      auto* kind = kind_of(parts[i].tensors);
      auto block = kind ? kind->own_block(parts[i], int(i), int(parts.size())) : std::nullopt;
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
    if (twice) return put_again(there, layer);
    there.tensors.merge(layer.tensors);
    there.keys.merge(layer.keys);
    if (layer.alpha) there.alpha = layer.alpha;
    if (layer.scale) there.scale = layer.scale;
  }

  void put_again(const LoraLayer& there, const LoraLayer& again) {
    bool alone = again.tensors.empty();  // a strength, which may be one of two
    bool same = ((alone && !again.alpha) || again.alpha == there.alpha) &&
                ((alone && !again.scale) || again.scale == there.scale) &&
                std::all_of(again.tensors.begin(), again.tensors.end(),
                            [&](auto& entry) { return are_equal(get(there.tensors, entry.first), entry.second); });
    for (const auto& [suffix, key] : again.keys) {
      auto first = there.keys.find(suffix);
      const auto& other = first == there.keys.end() ? there.name() : first->second;
      result_.unmatched.push_back({key, same ? "the same numbers as " + other : fmt::format(kDiffers, other, "layer")});
      if (!same) result_.left_out.push_back(result_.unmatched.back());
    }
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
  for (const auto& layer : layers) {
    auto size = size_of(layer.tensors);
    all.push_back({layer.component, layer.path, size.rows, size.columns});
  }
  return all;
}

// The component that layers without one belong to, where the caller and the base model do not say it.
std::string likely_denoiser(const std::vector<LoraLayer>& layers) {
  auto is_transformers = [](auto& layer) { return layer.component.empty() && is_in_block_list(layer.path); };
  auto is_unets = [](auto& layer) { return layer.component.empty() && is_unet_path(layer.path); };
  bool transformer = std::any_of(layers.begin(), layers.end(), is_transformers) &&
                     std::none_of(layers.begin(), layers.end(), is_unets);
  return transformer ? "transformer" : "unet";
}

// The T5 encoder is read as the third text encoder. A pipeline with two has it in the second place.
void place_t5(Reading& reading, const BaseModelRow& base_model) {
  if (base_model.component("text_encoder_3") || !base_model.component("text_encoder_2")) return;
  for (auto& layer : reading.layers)
    if (layer.component == "text_encoder_3") layer.component = "text_encoder_2";
}

// Whether some tensor is one that adapters alone have.
bool has_adapter(const Reading& reading) {
  return std::any_of(reading.layers.begin(), reading.layers.end(), [](auto& layer) {
    return std::any_of(layer.tensors.begin(), layer.tensors.end(),
                       [](auto& entry) { return name_row(entry.first)->only_beside.empty(); });
  });
}

// A pickle may hold the LoRA under a name of the trainer's, with other things beside it: the part of the file whose
// keys are understood, without the name. Nothing for a file without such a part.
std::optional<std::pair<std::string, Reading>> part_with_lora(const StateDict& file, Strengths& strengths, int depth) {
  constexpr int kDeepest = 3;
  std::map<std::string, StateDict> parts;
  for (const auto& [key, tensor] : file)
    if (auto dot = key.find('.'); dot != key.npos) parts[key.substr(0, dot + 1)].set(key.substr(dot + 1), tensor);
  for (const auto& [name, part] : parts) {
    auto reading = read_keys(part, strengths);
    if (has_adapter(reading)) return std::pair(name, std::move(reading));
    if (depth == kDeepest) continue;
    if (auto inner = part_with_lora(part, strengths, depth + 1)) return std::pair(name + inner->first, inner->second);
  }
  return std::nullopt;
}

// The keys of the reading as the file has them, and those beside its part of the file.
void name_part(const StateDict& file, const std::string& name, Reading& reading) {
  for (auto& layer : reading.layers)
    for (auto& [suffix, key] : layer.keys) key = name + key;
  for (auto* some : {&reading.unmatched, &reading.not_understood})
    for (auto& unmatched : *some) unmatched.key = name + unmatched.key;
  for (const auto& [key, tensor] : file)
    if (!key.starts_with(name))
      reading.unmatched.push_back({key, "beside the part of the file that holds the LoRA, " + name});
}

ToldModel told_model(const Reading& reading, const StateDict& file, BaseModel given, const std::string& label) {
  try {
    return base_model_of(traces(reading.layers), file.metadata, given);
  } catch (const Error& error) {
    fail(error.kind(), "{}: {}", label, error.what());
  }
}

// LoKr's variants in kohya's scripts have a scale of their own, which their tensors do not say.
void note_scale(LoraFile& file) {
  auto module = file.metadata.find("ss_network_module");
  if (module == file.metadata.end()) return;
  for (auto [name, spoken] : {std::pair("krona", "KronA"), {"cdka", "CDKA"}})
    if (module->second.find(name) != std::string::npos)
      file.notes.push_back(fmt::format(
          "trained with {}, whose scale is not that of LoKr and is not in the file: the strength may be another one",
          spoken));
}

}  // namespace

LoraFile to_lora_file(const StateDict& file, const std::string& denoiser, const std::string& label,
                      std::span<const std::shared_ptr<const MappedFile>> mapped, BaseModel base_model,
                      Content content) {
  check_no_unknown_method(file, label);
  auto named = name_positions(file, label);
  Strengths strengths(mapped, content);
  const auto& tensors = named ? *named : file;
  auto reading = read_keys(tensors, strengths);
  if (reading.layers.empty() && reading.embeddings.empty())
    if (auto part = part_with_lora(file, strengths, 1)) {
      reading = std::move(part->second);
      name_part(file, part->first, reading);
    }
  auto left_out = take_left_out(reading, tensors);
  check_floating_point(reading.layers, reading.unmatched);

  auto told = told_model(reading, file, base_model, label);
  auto* row = row_of(told.model);
  drop_flat_names(reading, row, left_out);
  LoraFile result{.base_model = told.model,
                  .known_by = told.known_by,
                  .cross_attention = told.cross_attention,
                  .dialect = named ? "cloneofsimo" : spoken(reading.hits),
                  .source = label,
                  .metadata = file.metadata,
                  .embeddings = std::move(reading.embeddings),
                  .unmatched = std::move(reading.unmatched),
                  .left_out = std::move(left_out)};
  auto unnamed = !denoiser.empty() ? denoiser : row ? std::string(row->denoiser()) : likely_denoiser(reading.layers);
  if (row) place_t5(reading, *row);
  Namer namer(reading, file, unnamed, row ? row->native : NativeNames::unet, result);
  for (auto& layer : reading.layers) namer.add(std::move(layer));
  for (const auto& half : take_strange_halves(result.layers)) {
    result.unmatched.push_back(half);
    result.left_out.push_back(half);
  }
  for (auto& layer : result.layers) layer.kind = kind_name(layer.tensors);
  note_scale(result);
  if (auto names = adapter_names(tensors); names.size() > 1)
    result.notes.push_back(
        fmt::format("the file holds {} adapters, which act together as one: {}", names.size(), listing(names)));
  if (result.layers.empty()) fail_without_layers(file, label);
  return result;
}

}  // namespace lora
