#include "core/check.h"
#include "core/edge.h"
#include "core/text.h"
#include "lora/files.h"

namespace lora {

namespace fs = std::filesystem;

fs::path find_lora(const fs::path& folder, const std::string& name) {
  return edge([&] {
    check(fs::is_directory(folder), ErrorKind::not_found, "{}: no such folder", folder.string());
    std::vector<std::string> names;
    for (const auto& entry : fs::recursive_directory_iterator(folder)) {
      if (entry.path().extension() != ".safetensors") continue;
      names.push_back(entry.path().stem().string());
      if (names.back() == name) return entry.path();
    }
    auto near = nearest(name, names);
    fail(ErrorKind::not_found, "{}: no LoRA named \"{}\" in this folder or below it{}", folder.string(), name,
         near.empty() ? "" : fmt::format("; did you mean \"{}\"?", near));
  });
}

}  // namespace lora
