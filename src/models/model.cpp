#include "lora/model.h"

#include "core/check.h"
#include "io/json_file.h"
#include "models/loading.h"
#include "nn/site.h"

namespace lora {

namespace fs = std::filesystem;

const StateDict& Model::state_dict() const { return parts_->tensors; }

std::vector<AddedWord> Model::added_words() const {
  auto added = RunScope::added(*parts_);
  return added ? added->words : std::vector<AddedWord>();
}

void Model::save_pretrained(const fs::path& folder) const {
  std::error_code error;
  fs::create_directories(folder, error);
  check(!error, ErrorKind::io, "{}: cannot make the folder: {}", folder.string(), error.message());

  auto tensors = state_dict();
  tensors.metadata = {{"format", "pt"}};
  save_safetensors(tensors, folder / (std::string(weight_files_of(class_name_).safetensors) + ".safetensors"));
  write_text(folder / "config.json", config_ + "\n");
}

}  // namespace lora
