#include "checkpoints/component_files.h"

#include <algorithm>
#include <set>

#include "core/check.h"
#include "core/text.h"
#include "io/json_file.h"

namespace lora {

namespace fs = std::filesystem;

namespace {

// All names that the libraries use for one kind of file. Sharded variants have different names in different versions.
std::vector<std::string> spellings(const std::string& stem, const std::string& ending, const std::string& variant) {
  if (variant.empty()) return {stem + ending, stem + ending + ".index.json"};
  return {stem + "." + variant + ending, stem + "." + variant + ending + ".index.json",
          stem + ending + ".index." + variant + ".json", stem + ending + "." + variant + ".index.json"};
}

std::vector<std::string> spellings(const WeightFiles& files, const std::string& variant) {
  auto names = spellings(files.safetensors, ".safetensors", variant);
  for (auto& name : spellings(files.pickle, ".bin", variant)) names.push_back(std::move(name));
  return names;
}

// The variants whose weights a folder has. "" is the variant without a name.
std::set<std::string> variants_among(const std::vector<std::string>& names, const WeightFiles& files) {
  std::set<std::string> variants;
  for (const auto& name : names)
    for (const auto& piece : split(name, '.'))
      for (const auto& candidate : {piece, std::string()})
        for (const auto& spelling : spellings(files, candidate))
          if (name == spelling) variants.insert(candidate);
  return variants;
}

}  // namespace

std::string library_of(const std::string& class_name) {
  bool text = class_name.starts_with("CLIPTextModel") || class_name == "T5EncoderModel";
  return text ? "transformers" : "diffusers";
}

const WeightFiles& weight_files_of(const std::string& class_name) {
  return library_of(class_name) == "transformers" ? kTransformersFiles : kDiffusersFiles;
}

bool is_weight_file(const std::string& name) {
  auto ends_right = [&] {
    return name.ends_with(".safetensors") || name.ends_with(".bin") ||
           (name.ends_with(".json") && name.find(".index.") != std::string::npos);
  };
  for (std::string_view stem : {kDiffusersFiles.safetensors, kTransformersFiles.safetensors, kTransformersFiles.pickle})
    if (name.starts_with(stem) && name.size() > stem.size() && (name[stem.size()] == '.' || name[stem.size()] == '-'))
      return ends_right();
  return false;
}

std::vector<std::string> file_names(const fs::path& folder) {
  std::vector<std::string> names;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder, ignored)) names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

bool has_variant(const std::vector<std::string>& names, const WeightFiles& files, const std::string& variant) {
  return variants_among(names, files).contains(variant);
}

std::string note_of_left_out(const std::string& label, const std::vector<std::string>& names) {
  return fmt::format("{}: the model does not have these tensors, which were left out: {}", label, listing(names));
}

std::string note_of_no_variant(const std::string& label, const std::string& variant) {
  return fmt::format("{}: no weights of variant \"{}\": read without a variant", label, variant);
}

std::string choose_weights(const std::vector<std::string>& names, const WeightFiles& files, const std::string& variant,
                           const std::string& label) {
  auto has = [&](const std::string& name) { return std::find(names.begin(), names.end(), name) != names.end(); };
  auto all = names.empty() ? "nothing" : listing(names);
  check(has("config.json"), ErrorKind::not_found,
        "{}: there is no config.json; the folder has {}. Give the folder of one component, such as <model>/unet", label,
        all);
  auto wanted = spellings(files, variant);
  if (auto found = std::find_if(wanted.begin(), wanted.end(), has); found != wanted.end()) return *found;

  auto variants = variants_among(names, files);
  check(!variants.empty(), ErrorKind::not_found, "{}: there are no weights; expected {}, but the folder has {}", label,
        wanted.front(), all);
  std::vector<std::string> named;
  for (const auto& v : variants) named.push_back(v.empty() ? "the one without a name" : "\"" + v + "\"");
  fail(ErrorKind::not_found,
       "{}: there are no weights {}; the folder has these variants: {}. Give one of them as `variant`", label,
       variant.empty() ? "without a variant" : "of variant \"" + variant + "\"", join(named, ", "));
}

Checkpoint open_component(const fs::path& folder, const WeightFiles& files, const std::string& variant) {
  check(fs::is_directory(folder), ErrorKind::not_found, "{}: no such folder", folder.string());
  auto weights = choose_weights(file_names(folder), files, variant, folder.string());
  auto config = read_json(folder / "config.json").dump(2);
  return {std::move(config), load_state_dict(folder / weights), folder.string()};
}

}  // namespace lora
