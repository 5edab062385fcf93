#pragma once
// The tensors of a converted file, made one layer at a time while they are written, and read again before they get
// their names.
#include "dialects/spell.h"
#include "files/convert_plan.h"
#include "io/atomic_folder.h"
#include "io/mapped_file.h"
#include "io/safetensors.h"
#include "kinds/narrowing.h"

namespace lora {

// Reading a file through its mapping would leave all of it in this process's memory.
class Pages {
 public:
  explicit Pages(const LoraFile& file);
  void about_to_read(size_t bytes);

 private:
  std::vector<std::shared_ptr<const MappedFile>> files_;
  size_t read_ = 0;

  void release();
};

class Writer {
 public:
  using Makers = std::vector<std::function<FactorPair()>>;  // by the number of the layer

  // `planner`: of the makers; nullptr where there are none.
  Writer(const LoraFile& file, const ConvertOptions& options, const ToolProgress& progress, const Planner* planner);

  void add(const std::vector<Spelled>& spelled, Makers makers = {});

  // Throw Error{unsupported} where what was written is not the same LoRA. Then no file is there.
  void write_file(const std::filesystem::path& out, const std::map<std::string, std::string>& metadata);
  void write_folders(const std::filesystem::path& out, const std::map<std::string, std::string>& configs);

  const std::vector<std::filesystem::path>& files() const { return files_; }
  const std::vector<std::string>& notes() const { return notes_; }

 private:
  const LoraFile& file_;
  const ConvertOptions& options_;
  const ToolProgress& progress_;
  const Planner* planner_;
  const Target target_;
  Makers makers_;
  Pages pages_;
  std::map<std::string, std::vector<PendingTensor>> pending_;  // by component for peft, else under ""
  LoraLayer made_;
  std::optional<size_t> made_number_;
  std::map<std::string, DtypeLoss> losses_;
  int written_ = 0, total_ = 0;
  std::vector<std::filesystem::path> files_;
  std::vector<std::string> notes_;

  Dtype dtype_of(const Spelled& spelled) const;
  Tensor tensor_of(const Spelled& spelled);
  LoraLayer layer_of(const Spelled& spelled);
  void narrow(LoraLayer& layer, Dtype dtype);
  void check_written(const std::filesystem::path& written);
};

// What may be in a folder that PEFT's files are written to.
FolderRules peft_folder_rules();

}  // namespace lora
