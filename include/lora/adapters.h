#pragma once
// What a load says about itself. Nothing is silent: every tensor of a file is either matched or listed with the reason.
#include <string>
#include <vector>

namespace lora {

struct LoadReport {
  struct Layer {
    std::string path;       // of the module, as in diffusers
    std::string algorithm;  // "lora"
    int64_t rank = 0;
    double alpha = 0;  // the rank where the file has none
    double scale = 0;  // what multiplies the product of the factors at weight 1
  };
  struct Component {
    std::string name;  // "unet", "text_encoder", …
    std::vector<Layer> layers;
  };
  struct Unmatched {
    std::string key;  // as in the file
    std::string reason;
  };

  std::string adapter_name;
  std::string source;   // the file, or "state dict"
  std::string dialect;  // "kohya", "peft", "diffusers", …; several are joined by " + "
  std::vector<Component> components;
  std::vector<Unmatched> unmatched;
  std::vector<std::string> notes;  // whatever else the caller should know

  size_t matched_layers() const;
  std::string text() const;  // a few lines for people
  std::string json() const;  // the whole of it
};

}  // namespace lora
