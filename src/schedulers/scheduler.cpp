// The registry of the scheduler classes, and the public calls.
#include "lora/scheduler.h"

#include <algorithm>
#include <fstream>
#include <sstream>

#include "core/check.h"
#include "core/text.h"
#include "io/public_call.h"
#include "schedulers/registry.h"
#include "schedulers/short_names.h"

namespace lora {

static const std::vector<SchedulerClass>& scheduler_classes() {
  static const std::vector<SchedulerClass> classes{amused_scheduler(),
                                                   ddim_scheduler(),
                                                   deis_multistep_scheduler(),
                                                   dpmsolver_multistep_scheduler(),
                                                   dpmsolver_sde_scheduler(),
                                                   dpmsolver_singlestep_scheduler(),
                                                   euler_ancestral_discrete_scheduler(),
                                                   euler_discrete_scheduler(),
                                                   flow_match_euler_discrete_scheduler(),
                                                   heun_discrete_scheduler(),
                                                   lcm_scheduler(),
                                                   pndm_scheduler(),
                                                   tcd_scheduler(),
                                                   unipc_multistep_scheduler()};
  return classes;
}

// `kind` is that of the error if there is no such class.
static const SchedulerClass& find_class(std::string_view name, ErrorKind kind) {
  const auto& classes = scheduler_classes();
  auto found = std::find_if(classes.begin(), classes.end(), [&](const auto& c) { return c.name == name; });
  if (found != classes.end()) return *found;
  std::vector<std::string> known;
  for (const auto& c : classes) known.push_back(c.name);
  fail(kind, "scheduler \"{}\" is not supported; supported classes: {}; short names: {}", name, join(known, ", "),
       join(Scheduler::names(), ", "));
}

std::optional<Predicts> predicted_for(const std::string& name) {
  const auto* short_name = find_short_name(name);
  const auto& class_name = short_name ? short_name->class_name : name;
  if (class_name == "AmusedScheduler") return Predicts::tokens;
  if (class_name == "FlowMatchEulerDiscreteScheduler") return Predicts::flow;
  return has_field(class_name, "prediction_type") ? std::optional(Predicts::noise) : std::nullopt;
}

Predicts predicted_for(const Scheduler& scheduler) {
  // A class for noise can also be set to flow matching.
  auto config = parse_scheduler_config(scheduler.config());
  if (config.value("prediction_type", Json()) == "flow_prediction") return Predicts::flow;
  return predicted_for(scheduler.class_name()).value_or(Predicts::noise);
}

bool takes_eta(const Scheduler& scheduler) {
  return scheduler.class_name() == "DDIMScheduler" || scheduler.class_name() == "TCDScheduler";
}

bool has_field(std::string_view class_name, std::string_view field) {
  for (const auto& c : scheduler_classes())
    if (c.name == class_name) return std::ranges::any_of(c.fields, [&](const auto& f) { return f.name == field; });
  return false;
}

static std::string class_name_of(const Json& config) {
  auto name = config.find("_class_name");
  check(name != config.end() && name->is_string(), ErrorKind::bad_file,
        "scheduler config: _class_name is missing or not a text; add it, or give class_name in the call");
  return name->get<std::string>();
}

void Scheduler::set_timesteps(int num_inference_steps, const SetTimestepsOptions& options) {
  public_call([&] { do_set_timesteps(num_inference_steps, options); });
}

Tensor Scheduler::scale_model_input(const Tensor& sample, const Tensor& timestep) {
  return public_call([&] { return do_scale_model_input(sample, timestep); });
}

SchedulerOutput Scheduler::step(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                                const SchedulerStepOptions& options) {
  return public_call([&] { return do_step(model_output, timestep, sample, options); });
}

Tensor Scheduler::add_noise(const Tensor& original_samples, const Tensor& noise, const Tensor& timesteps) const {
  return public_call([&] { return do_add_noise(original_samples, noise, timesteps); });
}

std::vector<std::string> Scheduler::names() {
  std::vector<std::string> names;
  for (const auto& short_name : short_names()) names.push_back(short_name.name);
  return names;
}

std::unique_ptr<Scheduler> Scheduler::from_config(const std::string& json, const std::string& class_name) {
  auto config = parse_scheduler_config(json);
  auto name = class_name.empty() ? class_name_of(config) : class_name;
  if (const auto* short_name = find_short_name(class_name)) {
    name = short_name->class_name;
    config.update(short_name->fields);
  }
  const auto& found = find_class(name, class_name.empty() ? ErrorKind::unsupported : ErrorKind::usage);
  return found.create({found.name, found.fields, config});
}

std::unique_ptr<Scheduler> Scheduler::from_pretrained(const std::filesystem::path& folder) {
  auto file = folder / "scheduler_config.json";
  std::ifstream stream(file, std::ios::binary);
  check(stream.is_open(), ErrorKind::not_found, "{}: no such file; give the folder that contains scheduler_config.json",
        file.string());
  std::ostringstream text;
  text << stream.rdbuf();
  try {
    return from_config(text.str());
  } catch (const Error& error) {
    fail(error.kind(), "{}: {}", file.string(), error.what());
  }
}

}  // namespace lora
