#include "dialects/base_model_of.h"

#include <algorithm>

#include "names/base_model.h"

namespace lora {

namespace {

bool has(std::string_view path, std::string_view piece) { return path.find(piece) != path.npos; }

bool has_any(std::string_view path, std::span<const std::string_view> pieces) {
  return std::any_of(pieces.begin(), pieces.end(), [&](auto piece) { return has(path, piece); });
}

// A block's own attention has no number in transformers.
bool is_transformers_attention(std::string_view path) { return has(path, "transformer_blocks") && has(path, ".attn."); }

bool is_unet(std::string_view path) {
  static constexpr std::string_view kPieces[] = {"down_blocks",  "mid_block",    "up_blocks",
                                                 "input_blocks", "middle_block", "output_blocks"};
  return has_any(path, kPieces);
}

BaseModel first_where(auto condition) {
  auto rows = base_models();
  auto row = std::find_if(rows.begin(), rows.end(), condition);
  return row == rows.end() ? BaseModel::unknown : row->model;
}

BaseModel by_marks(const std::vector<LayerTrace>& layers) {
  return first_where([&](const BaseModelRow& row) {
    return std::any_of(layers.begin(), layers.end(), [&](auto& layer) {
      bool attention = row.attention && is_transformers_attention(layer.path) &&
                       (*row.attention == 0 || *row.attention == layer.columns);
      return attention || has_any(layer.path, row.marks);
    });
  });
}

BaseModel by_unet_marks(const std::vector<LayerTrace>& layers) {
  if (std::none_of(layers.begin(), layers.end(), [](auto& layer) { return is_unet(layer.path); }))
    return BaseModel::unknown;
  return first_where([&](const BaseModelRow& row) {
    return !row.unet_marks.empty() && std::any_of(layers.begin(), layers.end(), [&](auto& layer) {
      return layer.component == "text_encoder_2" || has_any(layer.path, row.unet_marks);
    });
  });
}

BaseModel by_metadata(const std::map<std::string, std::string>& metadata) {
  auto value = [&](const char* key) {
    auto it = metadata.find(key);
    return it == metadata.end() ? std::string() : it->second;
  };
  auto version = value("ss_base_model_version"), spec = value("modelspec.architecture");
  bool v2 = value("ss_v2") == "True";
  auto begins = [](const std::string& text, std::string_view start) {
    return !start.empty() && text.starts_with(start);
  };
  return first_where([&](const BaseModelRow& row) {
    return begins(version, row.version_prefix) || begins(spec, row.spec_prefix) || (v2 && row.is_v2);
  });
}

}  // namespace

ToldModel base_model_of(const std::vector<LayerTrace>& layers, const std::map<std::string, std::string>& metadata) {
  ToldModel told{.model = by_marks(layers)};
  if (told.model != BaseModel::unknown) return told;
  for (const auto& layer : layers)
    if (layer.columns > 0 && has(layer.path, "attn2.to_k")) {
      told.cross_attention = layer.columns;
      break;
    }
  told.model = unet_with_cross_attention(told.cross_attention);
  if (told.model != BaseModel::unknown) return told;
  told.model = by_metadata(metadata);
  if (told.cross_attention != 0) return told;
  // Names win over the metadata, but for what they do not tell apart: two base models of one pipeline.
  auto* said = row_of(told.model);
  auto* named = row_of(by_unet_marks(layers));
  if (named && !(said && said->pipeline == named->pipeline)) told.model = named->model;
  return told;
}

}  // namespace lora
