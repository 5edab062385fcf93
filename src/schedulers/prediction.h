#pragma once
// What a model predicts, and the limits that a config sets on the predicted clean sample.
#include <string>
#include <vector>

#include "lora/tensor.h"
#include "schedulers/config.h"

namespace lora {

enum class PredictionType { epsilon, sample, v_prediction, flow_prediction };

// prediction_type. `supported` lists the values that the class supports.
SchedulerFields prediction_fields(const std::vector<std::string>& supported);
PredictionType prediction_type(const SchedulerConfig& config);

// What a model output says of a sample sqrt(alpha_bar) · clean + sqrt(1 - alpha_bar) · noise.
struct CleanAndNoise {
  Tensor x0, epsilon;
};
CleanAndNoise predict_clean_and_noise(PredictionType type, const Tensor& output, const Tensor& sample,
                                      const Tensor& alpha_bar);

// thresholding, dynamic_thresholding_ratio, sample_max_value.
SchedulerFields thresholding_fields();
// clip_sample, clip_sample_range.
SchedulerFields clip_fields(bool clip_sample);

// Dynamic thresholding (Saharia et al. 2022, section 2.3) of each image, if the config enables it.
Tensor threshold_sample(const SchedulerConfig& config, const Tensor& sample);
// The same. Without thresholding, the sample is clipped if the config enables that.
Tensor limit_sample(const SchedulerConfig& config, const Tensor& sample);

}  // namespace lora
