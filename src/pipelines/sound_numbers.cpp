#include "pipelines/sound_numbers.h"

#include <set>

#include "core/check.h"
#include "core/text.h"

namespace lora {

namespace {

// The adapters that a call applies, and those in the weights.
std::vector<std::string> adapters_of(const DiffusionPipeline& pipe, const CallOptions& o) {
  std::set<std::string> names;
  for (const auto& list : o.adapters_per_image)
    for (const auto& adapter : list) names.insert(adapter.name);
  if (o.adapters)
    for (const auto& adapter : *o.adapters) names.insert(adapter.name);
  else if (o.adapters_per_image.empty())
    for (const auto& name : pipe.get_active_adapters()) names.insert(name);
  for (const auto& name : pipe.fused_loras()) names.insert(name);
  return {names.begin(), names.end()};
}

}  // namespace

void check_sound(const Tensor& t, const std::string& what, const DiffusionPipeline& pipe, const CallOptions& options) {
  if (all_finite(t)) return;
  std::vector<std::string> advice;
  if (auto names = adapters_of(pipe, options); !names.empty())
    advice.push_back("lower the weights of the adapters (" + listing(names) + ")");
  if (pipe.dtype() == at::kHalf) advice.push_back("use the dtype bfloat16 or float32, because float16 may overflow");
  if (advice.empty()) advice.push_back("check the numbers of the call and the weights of the model");
  fail(ErrorKind::unsupported, "{} have NaN or infinite numbers, so there is no picture; {}", what,
       join(advice, ", or "));
}

void fail_in_autoencoder(const Model& model, const char* what) {
  fail(ErrorKind::unsupported,
       "{} that {} makes have NaN or infinite numbers, also in float32; its input or its weights are not sound", what,
       model.class_name());
}

}  // namespace lora
