#include <algorithm>

#include "core/edge.h"
#include "core/text.h"
#include "core/utf8.h"
#include "dialects/other_files.h"
#include "files/hashes.h"
#include "files/inspect_checks.h"
#include "files/layer_facts.h"
#include "files/listing.h"
#include "io/tensor_sizes.h"
#include "kinds/kinds.h"
#include "loaders/read_lora.h"
#include "lora/text.h"
#include "names/base_model.h"

namespace lora {

using nlohmann::json;

namespace {

constexpr size_t kMostTags = 20;

// ss_tag_frequency has, by folder of pictures, how many of them have each tag.
std::vector<std::pair<std::string, uint64_t>> tags_of(const std::string& frequency) {
  auto folders = json::parse(frequency, nullptr, /*allow_exceptions=*/false);
  if (!folders.is_object()) return {};
  std::map<std::string, uint64_t> counts;
  for (const auto& [folder, tags] : folders.items()) {
    if (!tags.is_object()) continue;
    for (const auto& [tag, count] : tags.items())
      if (auto name = trimmed(tag); count.is_number_unsigned() && !name.empty())
        counts[std::string(name)] += count.get<uint64_t>();
  }
  std::vector<std::pair<std::string, uint64_t>> order(counts.begin(), counts.end());
  std::stable_sort(order.begin(), order.end(), [](auto& a, auto& b) { return a.second > b.second; });
  if (order.size() > kMostTags) order.resize(kMostTags);
  return order;
}

void add_metadata(ListedLora& row, const std::map<std::string, std::string>& metadata) {
  auto value = [&](const char* key) {
    auto it = metadata.find(key);
    return it == metadata.end() ? std::string() : std::string(trimmed(it->second));
  };
  row.title = value("modelspec.title");
  row.output_name = value("ss_output_name");
  row.trigger_phrase = value("modelspec.trigger_phrase");
  row.tags = tags_of(value("ss_tag_frequency"));
  row.hash = stated_hash(metadata);
  if (!row.hash.empty()) row.hash_from = "metadata";
}

std::string shortened(const std::string& text) {
  constexpr size_t kMost = 120;
  auto first = first_characters(text, kMost);
  return std::string(first) + (first.size() < text.size() ? " …" : "");
}

// The first part of a message, without its advice.
std::string first_part(const std::string& message) {
  return shortened(message.substr(0, std::min(message.find("; "), message.find(". "))));
}

// The message without the file's name, which the row has.
std::string without_label(const Error& error, const std::filesystem::path& file) {
  std::string message = error.what();
  auto label = printable(file.string()) + ": ";
  while (message.starts_with(label)) message.erase(0, label.size());
  return message;
}

// What was read and is no LoRA, or none that is understood.
std::string refusal(const Error& error, const std::string& reason, const StateDict& tensors) {
  bool adapter = std::any_of(tensors.begin(), tensors.end(), [](auto& entry) { return is_adapter_key(entry.first); });
  if (adapter || error.kind() != ErrorKind::bad_key) return "cannot be loaded: " + first_part(reason);
  if (auto other = other_file(tensors); !other.what.empty()) return fmt::format("not a LoRA: {}", other.what);
  return "not a LoRA: " + shortened(tensors.empty() ? "no tensors" : "its first key is " + tensors.begin()->first);
}

std::string verdict_of(const LoraFile& file, const std::vector<Inspection::Layer>& layers, PublishedModels& models) {
  if (!file.left_out.empty()) return fmt::format("in part: {} not understood", counted(file.left_out.size(), "key"));
  auto published = published_for(layers, file.base_model, models);
  auto findings = check_sizes(layers, published);
  if (auto contradiction = check_metadata(file)) findings.insert(findings.begin(), *contradiction);
  if (!findings.empty())
    return fmt::format("problem: {}{}", shortened(findings.front().what),
                       findings.size() == 1 ? "" : fmt::format(" (and {} more)", findings.size() - 1));
  if (file.base_model == BaseModel::unknown) return "unknown base";
  bool compared =
      std::all_of(layers.begin(), layers.end(), [&](auto& layer) { return published.contains(layer.component); });
  return compared ? "fits" : "not compared";
}

void add_layers(ListedLora& row, const LoraFile& file, PublishedModels& models) {
  std::vector<Inspection::Layer> layers;
  for (const auto& layer : file.layers) layers.push_back(described(layer));
  for (const auto& layer : layers) {
    if (layer.rank <= 0) continue;
    row.min_rank = row.min_rank == 0 ? layer.rank : std::min(row.min_rank, layer.rank);
    row.max_rank = std::max(row.max_rank, layer.rank);
  }
  row.layers = layers.size();
  row.base_model = file.base_model;
  row.known_by = file.known_by;
  row.kind = algorithm_of(layers);
  row.dialect = file.dialect;
  row.trainer = trainer_of(file);
  row.verdict = verdict_of(file, layers, models);
}

BaseModel model_of_name(const std::string& name) {
  auto rows = base_models();
  auto row = std::find_if(rows.begin(), rows.end(), [&](auto& each) { return each.name == name; });
  return row == rows.end() ? BaseModel::unknown : row->model;
}

}  // namespace

ListedLora read_row(const std::filesystem::path& file, PublishedModels& models) {
  ListedLora row;
  StateDict tensors;
  try {
    tensors = load_tensor_sizes(file);
  } catch (const Error& error) {
    if (is_out_of_memory(error)) throw;
    row.error = without_label(error, file);
    row.verdict = "cannot be read: " + first_part(row.error);
    return row;
  }
  add_metadata(row, tensors.metadata);
  try {
    add_layers(row, read_lora_sizes(file, tensors), models);
  } catch (const Error& error) {
    if (is_out_of_memory(error)) throw;
    row.error = without_label(error, file);
    row.verdict = refusal(error, row.error, tensors);
  }
  return row;
}

json row_json(const ListedLora& row) {
  auto* base = row_of(row.base_model);
  json tags = json::array();
  for (const auto& [tag, count] : row.tags) tags.push_back({{"tag", tag}, {"count", count}});
  return {{"layers", row.layers},
          {"base", base ? base->name : ""},
          {"architecture", to_string(row.base_model)},
          {"known_by", row.known_by},
          {"kind", row.kind},
          {"dialect", row.dialect},
          {"trainer", row.trainer},
          {"min_rank", row.min_rank},
          {"max_rank", row.max_rank},
          {"title", row.title},
          {"output_name", row.output_name},
          {"trigger_phrase", row.trigger_phrase},
          {"tags", tags},
          {"hash", row.hash},
          {"hash_from", row.hash_from},
          {"verdict", row.verdict},
          {"error", row.error}};
}

std::optional<ListedLora> row_of(const json& fields) {
  try {
    ListedLora row;
    fields.at("layers").get_to(row.layers);
    row.base_model = model_of_name(fields.at("base").get<std::string>());
    fields.at("known_by").get_to(row.known_by);
    fields.at("kind").get_to(row.kind);
    fields.at("dialect").get_to(row.dialect);
    fields.at("trainer").get_to(row.trainer);
    fields.at("min_rank").get_to(row.min_rank);
    fields.at("max_rank").get_to(row.max_rank);
    fields.at("title").get_to(row.title);
    fields.at("output_name").get_to(row.output_name);
    fields.at("trigger_phrase").get_to(row.trigger_phrase);
    for (const auto& tag : fields.at("tags"))
      row.tags.emplace_back(tag.at("tag").get<std::string>(), tag.at("count").get<uint64_t>());
    fields.at("hash").get_to(row.hash);
    fields.at("hash_from").get_to(row.hash_from);
    fields.at("verdict").get_to(row.verdict);
    fields.at("error").get_to(row.error);
    return row;
  } catch (const json::exception&) {
    return std::nullopt;
  }
}

}  // namespace lora
