#include "schedulers/config.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "core/check.h"
#include "core/text.h"

namespace lora {

using Type = Json::value_t;

SchedulerFields concat(std::initializer_list<SchedulerFields> groups) {
  SchedulerFields all;
  for (const auto& group : groups) all.insert(all.end(), group.begin(), group.end());
  return all;
}

// ---- JSON as Python writes it ---------------------------------------------------------------------------------------

// JSON does not have infinities and NaN. A config keeps them as these texts.
static constexpr std::array kPythonNumbers{"-Infinity", "Infinity", "NaN"};

static std::string quote_python_numbers(std::string_view text) {
  std::string quoted;
  bool inside = false;
  for (size_t i = 0; i < text.size();) {
    auto word = std::find_if(kPythonNumbers.begin(), kPythonNumbers.end(),
                             [&](std::string_view w) { return text.compare(i, w.size(), w) == 0; });
    if (!inside && word != kPythonNumbers.end()) {
      quoted.append("\"").append(*word).append("\"");
      i += std::string_view(*word).size();
      continue;
    }
    bool escape = inside && text[i] == '\\';
    if (text[i] == '"') inside = !inside;
    size_t n = escape ? 2 : 1;  // an escaped character does not end the text and does not begin another escape
    quoted += text.substr(i, n);
    i += n;
  }
  return quoted;
}

static void erase_defaults(Json& config) {
  auto list = config.find("_use_default_values");
  if (list == config.end()) return;
  check(list->is_array(), ErrorKind::bad_file, "scheduler config: _use_default_values must be a list of field names");
  auto names = *list;
  config.erase(list);
  for (const auto& name : names) {
    check(name.is_string(), ErrorKind::bad_file,
          "scheduler config: _use_default_values contains {}; it must be a list of field names", name.dump());
    config.erase(name.get<std::string>());
  }
}

Json parse_scheduler_config(std::string_view text) {
  constexpr int kDeepest = 8;  // copying and dumping a value are recursive
  bool too_deep = false;
  auto watch_depth = [&](int depth, Json::parse_event_t, Json&) {
    too_deep |= depth > kDeepest;
    return depth <= kDeepest;
  };
  auto json = Json::parse(quote_python_numbers(text), watch_depth, /*allow_exceptions=*/false);
  check(!too_deep, ErrorKind::bad_file, "scheduler config: nested deeper than {} levels", kDeepest);
  check(!json.is_discarded(), ErrorKind::bad_file, "scheduler config: this is not valid JSON");
  check(json.is_object(), ErrorKind::bad_file, "scheduler config: the JSON value is of type {}; it must be an object",
        json.type_name());
  erase_defaults(json);
  return json;
}

static std::optional<double> to_number(const Json& value) {
  if (value.is_number()) return value.get<double>();
  if (value == "Infinity") return std::numeric_limits<double>::infinity();
  if (value == "-Infinity") return -std::numeric_limits<double>::infinity();
  return std::nullopt;
}

// ---- Fields ---------------------------------------------------------------------------------------------------------

// All fields of the diffusers schedulers whose configs can be converted into one another (KarrasDiffusionSchedulers,
// LCM, TCD, SA).
static const std::vector<std::string>& fields_of_all_schedulers() {
  static const std::vector<std::string> names{"algorithm_type",
                                              "beta_end",
                                              "beta_schedule",
                                              "beta_start",
                                              "clip_sample",
                                              "clip_sample_range",
                                              "corrector_order",
                                              "disable_corrector",
                                              "dynamic_thresholding_ratio",
                                              "eta",
                                              "euler_at_final",
                                              "final_sigmas_type",
                                              "flow_shift",
                                              "interpolation_type",
                                              "lambda_min_clipped",
                                              "lower_order_final",
                                              "noise_sampler_seed",
                                              "num_train_timesteps",
                                              "original_inference_steps",
                                              "predict_x0",
                                              "prediction_type",
                                              "predictor_order",
                                              "rescale_betas_zero_snr",
                                              "rho",
                                              "sample_max_value",
                                              "set_alpha_to_one",
                                              "shift_terminal",
                                              "sigma_data",
                                              "sigma_max",
                                              "sigma_min",
                                              "sigma_schedule",
                                              "skip_prk_steps",
                                              "solver_order",
                                              "solver_p",
                                              "solver_type",
                                              "steps_offset",
                                              "tau_func",
                                              "thresholding",
                                              "time_shift_type",
                                              "timestep_scaling",
                                              "timestep_spacing",
                                              "timestep_type",
                                              "trained_betas",
                                              "use_beta_sigmas",
                                              "use_dynamic_shifting",
                                              "use_exponential_sigmas",
                                              "use_flow_sigmas",
                                              "use_karras_sigmas",
                                              "use_lu_lambdas",
                                              "variance_type"};
  return names;
}

static bool has_type(const Json& value, const SchedulerField& field) {
  switch (field.type) {
    case Type::boolean: return value.is_boolean() || value.is_null();
    case Type::number_integer: return value.is_number_integer();
    case Type::number_float: return to_number(value).has_value();
    case Type::array:
      return value.is_array() && (!value.empty() || field.fallback.is_array()) &&
             std::all_of(value.begin(), value.end(), [](const Json& v) { return v.is_number(); });
    default: return value.type() == field.type;
  }
}

static const char* type_name(Type type) {
  switch (type) {
    case Type::boolean: return "true or false";
    case Type::number_integer: return "a whole number";
    case Type::number_float: return "a number";
    case Type::array: return "a list of numbers";
    case Type::null: return "null";
    default: return "a text";
  }
}

static std::string supported_values(const SchedulerField& field) {
  std::vector<std::string> texts;
  for (const auto& value : field.supported) texts.push_back(value.dump());
  return listing(texts, texts.size());
}

static void check_value(const std::string& class_name, const SchedulerField& field, const Json& value) {
  if (value.is_null() && field.fallback.is_null()) return;
  check(has_type(value, field), ErrorKind::bad_file, "{}: {} is {}; it must be {}", class_name, field.name,
        value.dump(), type_name(field.type));
  Json plain = value.is_null() ? Json(false) : value;
  const auto& supported = field.supported;
  check(supported.empty() || std::find(supported.begin(), supported.end(), plain) != supported.end(),
        ErrorKind::unsupported, "{}: {} {} is not supported; supported: {}", class_name, field.name, value.dump(),
        supported_values(field));
  if (auto number = to_number(value))
    check(*number >= field.least && *number <= field.most, ErrorKind::unsupported,
          "{}: {} {} is out of range; it must be from {} to {}", class_name, field.name, value.dump(), field.least,
          field.most);
}

static void check_known(const std::string& class_name, const std::string& name) {
  const auto& known = fields_of_all_schedulers();
  if (name.starts_with('_') || std::find(known.begin(), known.end(), name) != known.end()) return;
  auto near = nearest(name, known);
  fail(ErrorKind::unsupported, "{}: the field \"{}\" is unknown; {}", class_name, name,
       near.empty() ? "remove it from the config" : "did you mean \"" + near + "\"?");
}

static Json read_value(const SchedulerField& field, const Json& given) {
  if (!given.is_string()) return given;
  for (const auto& [from, to] : field.synonyms)
    if (given == from) return to;
  return given;
}

SchedulerConfig::SchedulerConfig(std::string class_name, const SchedulerFields& fields, const Json& given)
    : class_name_(std::move(class_name)), values_(given) {
  values_["_class_name"] = class_name_;

  auto foreign = values_;
  std::vector<std::string> defaults;
  for (const auto& field : fields) {
    if (foreign.erase(field.name)) {
      auto& value = values_[field.name];
      value = read_value(field, value);
      check_value(class_name_, field, value);
    } else {
      values_[field.name] = field.fallback;
      defaults.push_back(field.name);
    }
  }
  for (const auto& [name, value] : foreign.items()) check_known(class_name_, name);
  if (!defaults.empty()) values_["_use_default_values"] = defaults;
}

// ---- Typed reading --------------------------------------------------------------------------------------------------

bool SchedulerConfig::flag(const std::string& name) const {
  const auto& value = values_.at(name);
  return !value.is_null() && value.get<bool>();
}

int64_t SchedulerConfig::integer(const std::string& name) const { return values_.at(name).get<int64_t>(); }

double SchedulerConfig::number(const std::string& name) const { return *to_number(values_.at(name)); }

std::optional<double> SchedulerConfig::maybe_number(const std::string& name) const {
  auto value = values_.find(name);
  if (value == values_.end() || value->is_null()) return std::nullopt;
  auto number = to_number(*value);
  check(number.has_value(), ErrorKind::bad_file, "{}: {} is {}; it must be a number", class_name_, name, value->dump());
  return number;
}

std::string SchedulerConfig::text(const std::string& name) const { return values_.at(name).get<std::string>(); }

std::vector<float> SchedulerConfig::numbers(const std::string& name) const {
  const auto& value = values_.at(name);
  return value.is_null() ? std::vector<float>{} : value.get<std::vector<float>>();
}

std::string SchedulerConfig::dump() const {
  auto text = values_.dump(2, ' ', /*ensure_ascii=*/true, Json::error_handler_t::replace);
  for (const std::string word : kPythonNumbers) text = replace_all(std::move(text), '"' + word + '"', word);
  return text + "\n";
}

}  // namespace lora
