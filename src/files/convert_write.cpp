#include "files/convert_write.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "core/check.h"
#include "files/read_back.h"
#include "io/atomic_folder.h"
#include "io/json_file.h"
#include "kinds/lora.h"
#include "loaders/locate_lora.h"
#include "loaders/metadata.h"
#include "loaders/read_lora.h"

namespace lora {

namespace fs = std::filesystem;

namespace {

constexpr const char* kAdapterModel = "adapter_model";  // how PEFT's weight files begin

StateDict tensors_of(const LoraFile& file) {
  StateDict tensors;
  for (const auto& layer : file.layers)
    for (const auto& [suffix, tensor] : layer.tensors) tensors.set(layer.name() + "." + suffix, tensor);
  return tensors;
}

size_t bytes_of(const LoraLayer& layer) {
  size_t bytes = 0;
  for (const auto& [suffix, tensor] : layer.tensors) bytes += tensor.nbytes();
  return bytes;
}

}  // namespace

Pages::Pages(const LoraFile& file) : files_(mapped_files(tensors_of(file))) { release(); }

void Pages::about_to_read(size_t bytes) {
  constexpr size_t kEnough = 16 << 20;
  read_ += bytes;
  if (read_ > kEnough) release();
}

void Pages::release() {
  for (const auto& file : files_) file->release_pages();
  read_ = 0;
}

Writer::Writer(const LoraFile& file, const ConvertOptions& options, const ToolProgress& progress,
               const Planner* planner)
    : file_(file),
      options_(options),
      progress_(progress),
      planner_(planner),
      target_(parse_target(options.to)),
      pages_(file) {}

void Writer::add(const std::vector<Spelled>& spelled, Makers makers) {
  makers_ = std::move(makers);
  for (const auto& one : spelled) {
    auto tensor = [this, one]() -> Tensor {
      if (progress_) progress_(++written_, total_);
      return tensor_of(one);
    };
    pending_[target_ == Target::peft ? one.component : ""].push_back({one.key, dtype_of(one), one.shape, tensor});
    ++total_;
  }
}

Dtype Writer::dtype_of(const Spelled& spelled) const {
  return options_.dtype && spelled.layer && c10::isFloatingType(spelled.dtype) ? *options_.dtype : spelled.dtype;
}

// The tensors of a layer are written one after the other, so the last layer is kept.
Tensor Writer::tensor_of(const Spelled& spelled) {
  if (!spelled.layer) return spelled.make();
  if (made_number_ != spelled.number) {
    made_number_.reset();
    made_ = {};  // before the next is made
    made_ = layer_of(spelled);
    made_number_ = spelled.number;
  }
  return get(made_.tensors, spelled.suffix);
}

LoraLayer Writer::layer_of(const Spelled& spelled) {
  auto layer = spelled.layer();
  pages_.about_to_read(bytes_of(layer));
  if (spelled.number < makers_.size() && makers_[spelled.number]) {
    auto dtype = get(layer.tensors, kDown).scalar_type();
    auto [A, B] = makers_[spelled.number]();
    LoraLayer factors{.component = layer.component, .path = layer.path};
    factors.tensors = {{std::string(kDown), A}, {std::string(kUp), B}};
    if (!options_.dtype) narrow(factors, dtype);
    for (auto& [suffix, tensor] : factors.tensors) layer.tensors[suffix] = tensor;
  }
  if (options_.dtype) narrow(layer, *options_.dtype);
  return layer;
}

void Writer::narrow(LoraLayer& layer, Dtype dtype) {
  auto [tensors, loss] = fitted(std::move(layer.tensors), dtype, [](auto) { return true; });
  layer.tensors = std::move(tensors);
  for (auto& [suffix, tensor] : layer.tensors)
    if (tensor.is_floating_point()) tensor = tensor.to(dtype);
  losses_[layer.name()] = std::move(loss);
}

void Writer::check_written(const fs::path& written) {
  made_ = {};
  made_number_.reset();
  auto wider_file = [](const std::string& dtypes) { return dtypes + " can hold them"; };
  notes_ = tell_losses(losses_, file_.source, wider_file);
  double narrowing = 0;
  for (const auto& [name, loss] : losses_) narrowing = std::max(narrowing, loss.error);
  constexpr double kFactors = 6;  // the most that one change is a product of
  auto tolerance = [&](const std::string& layer) {
    auto error = planner_ ? planner_->errors().find(layer) : decltype(planner_->errors().end()){};
    bool approximated = planner_ && error != planner_->errors().end();
    return kFactors * narrowing + (approximated ? 1.01 * error->second : 0);
  };
  auto file = read_lora(LoraSource::file(written), {.base_model = options_.read.base_model}, "");
  Pages pages(file);
  check_read_back(file, file_,
                  {target_, tolerance, [&] { pages.about_to_read(1 << 20), pages_.about_to_read(1 << 20); }});
}

void Writer::write_file(const fs::path& out, const std::map<std::string, std::string>& metadata) {
  save_safetensors(pending_[""], metadata, out, is_dotted(target_) ? "" : "sshs_model_hash",
                   [&](const fs::path& written) { check_written(written); });
  files_.push_back(out);
}

void Writer::write_folders(const fs::path& out, const std::map<std::string, std::string>& configs) {
  AtomicFolder folder(out, peft_folder_rules());
  for (const auto& [component, tensors] : pending_) {
    fs::create_directory(folder.path() / component);
    auto model = fs::path(component) / fmt::format("{}.safetensors", kAdapterModel);
    save_safetensors(tensors, {{"format", "pt"}}, folder.path() / model);
    auto config = fs::path(component) / kAdapterConfig;
    write_text(folder.path() / config, configs.at(component));
    files_.push_back(out / model);
    files_.push_back(out / config);
  }
  check_written(folder.path());
  folder.commit();
}

FolderRules peft_folder_rules() {
  FolderRules rules;
  for (const auto& component : peft_components())
    rules.marks.push_back((fs::path(component) / kAdapterConfig).generic_string());
  rules.replaces = [](const fs::path& file) { return file.filename().string().starts_with(kAdapterModel); };
  return rules;
}

}  // namespace lora
