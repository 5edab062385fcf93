#pragma once
// What a model predicts, and the limits that a config sets on the clean sample that follows from it.
#include <string>
#include <vector>

#include "lora/tensor.h"
#include "schedulers/config.h"

namespace lora {

enum class PredictionType { epsilon, sample, v_prediction };

// prediction_type, of which a class supports `supported`.
SchedulerFields prediction_fields(const std::vector<std::string>& supported);
PredictionType prediction_type(const SchedulerConfig& config);

// thresholding, dynamic_thresholding_ratio, sample_max_value.
SchedulerFields thresholding_fields();
// clip_sample, clip_sample_range.
SchedulerFields clip_fields(bool clip_sample);

// Dynamic thresholding (Saharia et al. 2022, section 2.3) where the config asks for it: an image at a time.
Tensor threshold_sample(const SchedulerConfig& config, const Tensor& sample);
// The same, or else clipping where the config asks for that.
Tensor limit_sample(const SchedulerConfig& config, const Tensor& sample);

}  // namespace lora
