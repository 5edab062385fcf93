#include "dialects/base_model_of.h"

#include <algorithm>
#include <cctype>

#include "core/check.h"
#include "core/text.h"
#include "dialects/evidence.h"
#include "names/base_model.h"

namespace lora {

namespace {

bool has(std::string_view path, std::string_view piece) { return path.find(piece) != path.npos; }

bool is_text_encoder(const LayerTrace& layer) { return layer.component.starts_with("text_encoder"); }

// "sd_v1-5" as "sdv15".
std::string letters_and_digits(const std::string& text) {
  std::string plain;
  for (unsigned char c : text)
    if (std::isalnum(c)) plain += static_cast<char>(std::tolower(c));
  return plain;
}

// The name of an architecture, without what stands behind it: "Flux.1-dev/lora" as "flux1dev".
std::string plain_name(const std::string& value) { return letters_and_digits(value.substr(0, value.find('/'))); }

// How the names of kohya's network modules begin; the rest names the model.
constexpr std::string_view kNetworks = "networks.lora_";

struct Denoiser {
  NamedTraces layers;
  bool unet = false;            // some layer is a UNet's
  bool block_lists = false;     // some layer is in a list of blocks of another denoiser
  bool second_encoder = false;  // beside it, the file has layers of a second text encoder
};

Denoiser denoiser_of(const std::vector<LayerTrace>& layers) {
  Denoiser denoiser;
  for (const auto& layer : layers) {
    if (!is_text_encoder(layer)) denoiser.layers.emplace_back(layer);
    denoiser.second_encoder = denoiser.second_encoder || layer.component == "text_encoder_2";
  }
  denoiser.unet =
      std::any_of(denoiser.layers.begin(), denoiser.layers.end(), [](auto& layer) { return is_unet_path(layer.path); });
  denoiser.block_lists = std::any_of(denoiser.layers.begin(), denoiser.layers.end(),
                                     [](auto& layer) { return is_in_block_list(layer.path); });
  return denoiser;
}

int64_t cross_attention_of(const Denoiser& denoiser) {
  for (const auto& layer : denoiser.layers)
    if (layer.columns > 0 && is_unet_path(layer.path) && has(layer.path, "attn2.to_k")) return layer.columns;
  return 0;
}

const BaseModelRow* by_unet_marks(const Denoiser& denoiser) {
  if (denoiser.block_lists) return nullptr;
  auto rows = base_models();
  auto row = std::find_if(rows.begin(), rows.end(), [&](auto& r) {
    return !r.unet_marks.empty() && ((denoiser.unet && denoiser.second_encoder) ||
                                     std::any_of(denoiser.layers.begin(), denoiser.layers.end(),
                                                 [&](auto& layer) { return has_any_piece(layer, r.unet_marks); }));
  });
  return row == rows.end() ? nullptr : &*row;
}

// The width of the narrowest layers of a published UNet.
constexpr int64_t kNarrowest = 320;

// Names of a UNet's levels tell something for UNets of a published size only.
bool is_published_unet(const Denoiser& denoiser) {
  return std::any_of(denoiser.layers.begin(), denoiser.layers.end(),
                     [](const LayerTrace& layer) { return std::max(layer.columns, layer.rows) >= kNarrowest; });
}

// Whether the layers leave room for a model that something else names.
bool is_possible(const Denoiser& denoiser, const BaseModelRow& row, int64_t cross_attention) {
  if (denoiser.layers.empty()) return true;
  if (row.cross_attention != 0) {
    bool other_width =
        unet_with_cross_attention(cross_attention) != BaseModel::unknown && row.cross_attention != cross_attention;
    bool other_encoder = denoiser.second_encoder && !row.component("text_encoder_2");
    return !denoiser.block_lists && !other_width && !other_encoder &&
           !(is_published_unet(denoiser) && contradicts(denoiser.layers, row));
  }
  return (row.has_transformer() ? !denoiser.unet : !denoiser.block_lists) && !contradicts(denoiser.layers, row);
}

std::string listed(const std::vector<BaseModel>& models) {
  std::vector<std::string> labels;
  for (auto model : models) labels.emplace_back(to_string(model));
  return join(labels, ", ");
}

constexpr const char* kChosenByMetadata = "its metadata, among those that its layers can be for";

ToldModel by_layers(const Denoiser& denoiser, BaseModel said) {
  auto [models, by_marks] = candidates_among(denoiser.layers);
  if (models.empty()) return {};
  bool is_said = std::find(models.begin(), models.end(), said) != models.end();
  if (models.size() == 1 || is_said)
    return {.model = is_said ? said : models.front(),
            .known_by = is_said && models.size() > 1 ? kChosenByMetadata
                        : by_marks                   ? "the names of its layers"
                                                     : "the names and sizes of its layers"};
  bool taken = std::all_of(models.begin() + 1, models.end(),
                           [&](auto other) { return can_be_taken_for(other, models.front()); });
  std::vector<BaseModel> others(models.begin() + 1, models.end());
  if (taken)
    return {.model = models.front(),
            .known_by = fmt::format("the names and sizes of its layers, which these have too: {}", listed(others))};
  return {.known_by = fmt::format("its layers have names and sizes that these have: {}", listed(models))};
}

// What the layers of a UNet tell. What is already told stays where they tell nothing.
void add_unet(const Denoiser& denoiser, ToldModel& told) {
  told.cross_attention = cross_attention_of(denoiser);
  told.model = unet_with_cross_attention(told.cross_attention);
  if (told.model != BaseModel::unknown) {
    told.known_by = fmt::format("its cross-attention takes text of width {}", told.cross_attention);
  } else if (auto* named = told.cross_attention == 0 ? by_unet_marks(denoiser) : nullptr) {
    told.model = named->model;
    told.known_by = "the names of its layers";
  }
}

// Whether the layers of a UNet that is told to be of one model may be of the other: they look alike, or it is the other
// base model of one pipeline.
bool may_be(BaseModel told, BaseModel other) {
  return can_be_taken_for(other, told) || row_of(told)->pipeline == row_of(other)->pipeline;
}

// `said`: what something else than the layers names. It chooses among what the layers leave.
ToldModel by_all(const std::vector<LayerTrace>& layers, BaseModel said) {
  auto denoiser = denoiser_of(layers);
  auto told = by_layers(denoiser, said);
  if (told.model != BaseModel::unknown) return told;
  add_unet(denoiser, told);
  auto* row = row_of(said);
  if (!row || said == told.model || !is_possible(denoiser, *row, told.cross_attention)) return told;
  bool open = told.model == BaseModel::unknown;
  if (!open && !may_be(told.model, said)) return told;
  told.known_by = open ? "its metadata says so" : kChosenByMetadata;
  told.model = said;
  return told;
}

}  // namespace

bool is_unet_path(std::string_view path) {
  static constexpr std::string_view kPieces[] = {"down_blocks",  "mid_block",    "up_blocks",
                                                 "input_blocks", "middle_block", "output_blocks"};
  return std::any_of(std::begin(kPieces), std::end(kPieces), [&](auto piece) { return has(path, piece); });
}

BaseModel model_named_by(const std::string& value) {
  auto plain = plain_name(value);
  BaseModel model = BaseModel::unknown;
  size_t longest = 0;
  for (const auto& row : base_models())
    for (auto name : row.metadata) {
      bool whole = name.ends_with('$');
      auto start = name.substr(0, name.size() - whole);
      if (start.size() <= longest || !(whole ? plain == start : plain.starts_with(start))) continue;
      longest = start.size();
      model = row.model;
    }
  return model;
}

SaidModel model_said_by(const LoraMetadata& metadata) {
  auto value = [&](const char* key) {
    auto it = metadata.find(key);
    return it == metadata.end() ? std::string() : it->second;
  };
  for (const char* key : {"ss_base_model_version", "modelspec.architecture"})
    if (auto model = model_named_by(value(key)); model != BaseModel::unknown) return {model, key, value(key)};
  if (value("ss_v2") == "True") return {BaseModel::sd2, "ss_v2", "True"};
  auto module = value("ss_network_module");
  if (module.starts_with(kNetworks))
    if (auto model = model_named_by(module.substr(kNetworks.size())); model != BaseModel::unknown)
      return {model, "ss_network_module", module};
  return {};
}

bool names_another(const SaidModel& said, BaseModel model) {
  if (said.model == BaseModel::unknown || said.model == model) return false;
  if (!can_be_taken_for(model, said.model)) return true;
  auto name = plain_name(said.value.starts_with(kNetworks) ? said.value.substr(kNetworks.size()) : said.value);
  auto names = row_of(model)->metadata;
  return std::none_of(names.begin(), names.end(), [&](auto own) { return own.starts_with(name); });
}

ToldModel base_model_of(const std::vector<LayerTrace>& layers, const LoraMetadata& metadata, BaseModel given) {
  if (given == BaseModel::unknown) return by_all(layers, model_said_by(metadata).model);
  auto told = by_all(layers, given);
  check(told.model == given, ErrorKind::usage,
        "the base model {} was given, but the names and sizes of the layers are not of it{}", to_string(given),
        told.model == BaseModel::unknown ? "" : fmt::format(": they are of {}", to_string(told.model)));
  told.known_by = "it was given";
  return told;
}

}  // namespace lora
