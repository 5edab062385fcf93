#include "lora/model.h"

#include "checkpoints/component_files.h"
#include "core/check.h"
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

const StateDict& Model::state_dict() const { return made().parts->tensors; }

std::vector<AddedWord> Model::added_words() const {
  auto added = RunScope::added(parts_of(*this));
  return added ? added->words : std::vector<AddedWord>();
}

void Model::save_pretrained(const fs::path& folder) const {
  public_call([&] {
    const RunScope run(parts_of(*this));  // no weight changes while it exists
    std::error_code error;
    fs::create_directories(folder, error);
    check(!error, ErrorKind::io, "{}: cannot create the folder: {}", folder.string(), error.message());

    auto tensors = state_dict();
    tensors.metadata = {{"format", "pt"}};
    save_safetensors(tensors, folder / (std::string(weight_files_of(class_name()).safetensors) + ".safetensors"));
    write_text(folder / "config.json", config() + "\n");
  });
}

}  // namespace lora
