// Where a LoRA comes from: texts that are paths, and texts that are repositories.
#include "checkpoints/repository.h"
#include "core/edge.h"
#include "hub/names.h"
#include "lora/lora_file.h"
#include "lora/lora_options.h"

namespace lora {

LoraSource::LoraSource(LoraFile file) : source_(std::make_shared<const LoraFile>(std::move(file))) {}

const LoraFile* LoraSource::lora_file() const {
  auto* file = std::get_if<std::shared_ptr<const LoraFile>>(&source_);
  return file ? file->get() : nullptr;
}

std::string LoraSource::label() const {
  if (path()) return path()->string();
  return lora_file() ? lora_file()->source : "state dict";
}

LoraSource LoraSource::file(std::filesystem::path path) {
  LoraSource source(std::move(path));
  source.form_ = Form::file;
  return source;
}

LoraSource LoraSource::repository(std::string_view repo_id) {
  return edge([&] {
    check_repo_id(std::string(repo_id));
    LoraSource source(repo_id);
    source.form_ = Form::repository;
    return source;
  });
}

bool LoraSource::is_repository() const {
  if (form_ != Form::text) return form_ == Form::repository;
  return path() && edge([&] { return lora::is_repository(*path()); });
}

}  // namespace lora
