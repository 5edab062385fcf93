#pragma once
// The layers of the base models that LoRAs are made for, without their weights.
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "lora/base_model.h"
#include "nn/site.h"

namespace lora {

struct PublishedLayer {
  SiteKind kind = SiteKind::linear;
  std::vector<int64_t> shape;  // of the weight; empty where only the name is known (Flux)
};

struct PublishedComponent {
  std::string model;  // "SDXL's UNet"
  std::unordered_map<std::string, PublishedLayer> layers;

  size_t trainable() const;  // linear layers and convolutions
};

// What `component` is in the models of that name: several where they differ in it, none where it is not known.
std::vector<PublishedComponent> published_components(BaseModel base_model, const std::string& component);

// published_components(), each made once. Threads: any number may use one object at once.
class PublishedModels {
 public:
  // Stays valid as long as the object.
  const std::vector<PublishedComponent>& of(BaseModel base_model, const std::string& component);

 private:
  std::mutex mutex_;
  std::map<std::pair<BaseModel, std::string>, std::vector<PublishedComponent>> made_;
};

}  // namespace lora
