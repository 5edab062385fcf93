#include "schedulers/prediction.h"

#include <ATen/ATen.h>

namespace lora {

SchedulerFields prediction_fields(const std::vector<std::string>& supported) {
  return {{.name = "prediction_type",
           .fallback = "epsilon",
           .supported = std::vector<Json>(supported.begin(), supported.end())}};
}

PredictionType prediction_type(const SchedulerConfig& config) {
  auto type = config.text("prediction_type");
  return type == "epsilon"           ? PredictionType::epsilon
         : type == "v_prediction"    ? PredictionType::v_prediction
         : type == "flow_prediction" ? PredictionType::flow_prediction
                                     : PredictionType::sample;
}

CleanAndNoise predict_clean_and_noise(PredictionType type, const Tensor& output, const Tensor& sample,
                                      const Tensor& alpha_bar) {
  auto alpha = alpha_bar.pow(0.5), sigma = (1 - alpha_bar).pow(0.5);
  switch (type) {
    case PredictionType::epsilon: return {(sample - sigma * output) / alpha, output};
    case PredictionType::sample: return {output, (sample - alpha * output) / sigma};
    default: return {alpha * sample - sigma * output, alpha * output + sigma * sample};
  }
}

SchedulerFields thresholding_fields() {
  return {{.name = "thresholding", .fallback = false},
          {.name = "dynamic_thresholding_ratio", .fallback = 0.995, .least = 0, .most = 1},
          {.name = "sample_max_value", .fallback = 1.0}};
}

SchedulerFields clip_fields(bool clip_sample) {
  return {{.name = "clip_sample", .fallback = clip_sample}, {.name = "clip_sample_range", .fallback = 1.0}};
}

Tensor threshold_sample(const SchedulerConfig& config, const Tensor& sample) {
  if (!config.flag("thresholding")) return sample;
  auto wide = sample.scalar_type() == at::kDouble ? sample : sample.to(at::kFloat);
  auto images = wide.reshape({sample.size(0), -1});
  auto s = at::quantile(images.abs(), config.number("dynamic_thresholding_ratio"), 1);
  s = at::clamp(s, 1, config.number("sample_max_value")).unsqueeze(1);
  images = at::clamp(images, -s, s) / s;
  return images.reshape(sample.sizes()).to(sample.scalar_type());
}

Tensor limit_sample(const SchedulerConfig& config, const Tensor& sample) {
  if (config.flag("thresholding")) return threshold_sample(config, sample);
  if (!config.flag("clip_sample")) return sample;
  auto range = config.number("clip_sample_range");
  return at::clamp(sample, -range, range);
}

}  // namespace lora
