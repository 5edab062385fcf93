#include "lora/model.h"

#include "checkpoints/component_files.h"
#include "core/check.h"
#include "io/atomic_folder.h"
#include "io/json_file.h"
#include "io/public_call.h"
#include "models/model_loader.h"
#include "models/parts_of.h"
#include "nn/run.h"

namespace lora {

namespace fs = std::filesystem;

Model::Model(Made made) : made_(std::make_unique<const Made>(std::move(made))) {}
Model::Model(Model&&) noexcept = default;
Model::~Model() = default;

const Model::Made& Model::made() const {
  check(made_ != nullptr, ErrorKind::usage, "this model was moved to another object; use that object");
  return *made_;
}

Parts& parts_of(Model& model) { return *model.made().parts; }
std::shared_ptr<Parts> shared_parts_of(Model& model) { return model.made().parts; }
const Parts& parts_of(const Model& model) { return *model.made().parts; }

const StateDict& Model::state_dict() const {
  edge([&] { keep_weights(*made().parts); });
  return made().parts->tensors;
}

int64_t Model::num_parameters() const {
  int64_t count = 0;
  for (const auto& [name, tensor] : made().parts->tensors) count += tensor.numel();
  return count;
}

std::vector<AddedWord> Model::added_words() const {
  auto added = RunScope::added(parts_of(*this));
  return added ? added->words : std::vector<AddedWord>();
}

void Model::save_pretrained(const fs::path& folder) const {
  public_call([&] {
    const RunScope run(parts_of(*this));  // no weight changes while it exists
    AtomicFolder out(folder, {.marks = {"config.json"}, .replaces = [](auto& file) {
                                return !file.has_parent_path() && is_weight_file(file.string());
                              }});
    auto tensors = parts_of(*this).tensors;
    tensors.metadata = {{"format", "pt"}};
    save_safetensors(tensors, out.path() / (std::string(weight_files_of(class_name()).safetensors) + ".safetensors"));
    write_text(out.path() / "config.json", config() + "\n");
    out.commit();
  });
}

}  // namespace lora
