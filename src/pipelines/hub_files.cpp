#include "pipelines/hub_files.h"

#include "checkpoints/component_files.h"
#include "core/check.h"
#include "core/text.h"
#include "io/sharded.h"

namespace lora {

namespace fs = std::filesystem;

namespace {

constexpr const char* kIndex = "model_index.json";

// A model file of any library: a folder of a tokenizer or a scheduler may hold some.
bool is_model(const fs::path& file) {
  auto extension = file.extension();
  return is_weight_file(file) || extension == ".h5" || extension == ".msgpack" || extension == ".onnx" ||
         extension == ".ot";
}

std::vector<std::string> top_level_checkpoints(const std::vector<std::string>& files) {
  std::vector<std::string> found;
  for (const auto& file : files)
    if (file.find('/') == file.npos && (file.ends_with(".safetensors") || file.ends_with(".ckpt")))
      found.push_back(file);
  return found;
}

// All files of a folder that are not model files.
std::vector<std::string> small_files(const Repository& repository, const std::string& folder) {
  std::vector<std::string> found;
  for (const auto& file : repository.files)
    if (file.starts_with(folder + "/") && !is_model(file)) found.push_back(file);
  check(!found.empty(), ErrorKind::not_found,
        "{}: the pipeline needs the folder {}, which the repository does not have. It has: {}", repository.label,
        folder, listing(repository.files));
  return found;
}

}  // namespace

fs::path fetch_index(Repository& repository) {
  const auto& files = repository.files;
  if (repository.snapshot.listed() && std::find(files.begin(), files.end(), kIndex) == files.end()) {
    auto checkpoints = top_level_checkpoints(files);
    auto advice = checkpoints.empty()
                      ? "It has: " + listing(files)
                      : fmt::format(
                            "It has single-file checkpoints: {}. `lora download {} {}` downloads one of them and "
                            "prints its path. Open that path",
                            listing(checkpoints), repository.repo_id, checkpoints.front());
    fail(ErrorKind::not_found, "{}: the repository has no {}, so it is not a diffusers pipeline. {}", repository.label,
         kIndex, advice);
  }
  return repository.snapshot.fetch({kIndex});
}

void fetch_components(Repository& repository, const std::map<std::string, std::string>& models,
                      const std::map<std::string, std::string>& variants,
                      const std::map<std::string, fs::path>& given) {
  constexpr std::string_view kTextEncoder = "text_encoder";
  auto wanted = small_files(repository, "scheduler");
  auto tokenizer_of = [&](const std::string& component) { return "tokenizer" + component.substr(kTextEncoder.size()); };
  auto want_tokenizer = [&](const std::string& component) {
    const auto files = small_files(repository, tokenizer_of(component));
    wanted.insert(wanted.end(), files.begin(), files.end());
  };
  std::vector<std::string> indices;  // of sharded weights
  for (const auto& [component, class_name] : models) {
    auto folder = component + "/";
    auto variant = variants.find(component);
    auto weights =
        folder + choose_weights(names_below(repository.files, folder), weight_files_of(class_name),
                                variant == variants.end() ? "" : variant->second, repository.label + ": " + component);
    if (weights.ends_with(".json")) indices.push_back(weights);
    wanted.insert(wanted.end(), {folder + "config.json", weights});
    if (component.starts_with(kTextEncoder)) want_tokenizer(component);
  }
  // A text encoder of the caller's uses the model's tokenizer, if there is one.
  for (const auto& [component, path] : given)
    if (!names_below(repository.files, tokenizer_of(component) + "/").empty()) want_tokenizer(component);
  auto snapshot = repository.snapshot.fetch(indices);
  for (const auto& index : indices)
    for (const auto& shard : shards_of(snapshot / index))
      wanted.push_back((fs::path(index).parent_path() / shard).generic_string());
  repository.snapshot.fetch(wanted);
}

}  // namespace lora
