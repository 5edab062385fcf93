#pragma once
// LoRA files of full shape and little rank, for the published models' own layers.
#include <ATen/ATen.h>

#include <algorithm>

#include "core/text.h"
#include "files/published_models.h"
#include "lora/files.h"
#include "support/compare.h"

namespace lora {

// kohya's file for SD 1.5: rank 1 and alpha 1 on the 192 layers of the UNet's transformers, or on those that `wanted`
// says of.
inline StateDict kohya_sd15(const std::function<bool(const std::string& path)>& wanted = {}) {
  auto unet = published_components(BaseModel::sd1, "unet").at(0);
  std::vector<std::string> paths;
  for (const auto& [path, layer] : unet.layers)
    if (layer.kind != SiteKind::norm && path.find("attentions") != path.npos && (!wanted || wanted(path)))
      paths.push_back(path);
  std::sort(paths.begin(), paths.end());
  at::manual_seed(0);
  StateDict file;
  for (const auto& path : paths) {
    auto shape = unet.layers.at(path).shape;
    auto out = shape[0];
    shape[0] = 1;
    std::vector<int64_t> up{out, 1};
    if (shape.size() == 4) up.insert(up.end(), {1, 1});
    auto key = "lora_unet_" + replace_all(path, ".", "_");
    file.set(key + ".lora_down.weight", at::randn(shape));
    file.set(key + ".lora_up.weight", at::randn(up));
    file.set(key + ".alpha", at::scalar_tensor(1.0));
  }
  return file;
}

inline void scale(StateDict& file, const std::string& key, double factor) { file.set(key, file.at(key) * factor); }

// Every file of tests/data that a converter may be given and can read.
inline std::vector<std::filesystem::path> readable_files() {
  std::vector<std::filesystem::path> files;
  for (auto folder : {"lora/files", "dialects"})
    for (const auto& entry : std::filesystem::recursive_directory_iterator(test_data() / folder)) {
      auto parent = entry.path().parent_path().filename();
      if (entry.path().extension() == ".safetensors" && parent != "malformed" && parent != "dialects")
        files.push_back(entry.path());
    }
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace lora
