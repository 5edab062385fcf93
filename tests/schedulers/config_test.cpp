#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "lora/error.h"
#include "lora/scheduler.h"
#include "schedulers/errors.h"

namespace lora {

namespace {

using testing::AllOf;
using testing::HasSubstr;
using Json = nlohmann::json;

std::string config(const std::string& class_name, Json fields = Json::object()) {
  fields["_class_name"] = class_name;
  return fields.dump();
}

// A config's text without Python's infinities.
std::string numbers_only(std::string config) {
  if (auto found = config.find("-Infinity"); found != std::string::npos) config.replace(found, 9, "0");
  return config;
}

template <class Matcher>
void expect_error(const std::string& json, ErrorKind kind, const Matcher& message, const std::string& class_name = "") {
  SCOPED_TRACE(json.substr(0, 200));
  expect_error(kind, message, [&] { Scheduler::from_config(json, class_name); });
}

}  // namespace

TEST(SchedulerConfig, NamesEveryClassAndShortName) {
  for (const auto* name :
       {"DDIMScheduler", "PNDMScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler",
        "HeunDiscreteScheduler", "DPMSolverMultistepScheduler", "DPMSolverSDEScheduler", "DPMSolverSinglestepScheduler",
        "DEISMultistepScheduler", "UniPCMultistepScheduler", "LCMScheduler", "TCDScheduler",
        "FlowMatchEulerDiscreteScheduler"}) {
    EXPECT_EQ(Scheduler::from_config(config(name))->class_name(), name);
    EXPECT_EQ(Scheduler::from_config("{}", name)->class_name(), name);
  }
  EXPECT_EQ(Scheduler::from_config(config("AmusedScheduler", {{"mask_token_id", 9}}))->class_name(), "AmusedScheduler");
  std::vector<std::string> names;
  for (const std::string name :
       {"ddim", "pndm", "euler", "euler_ancestral", "heun", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_3m_sde", "dpmpp_sde",
        "dpmpp_2s", "deis", "unipc", "lcm", "tcd", "flow_match_euler"}) {
    names.push_back(name);
    auto config = Json::parse(numbers_only(Scheduler::from_config("{}", name)->config()));
    if (name == "flow_match_euler" || !config.contains("use_karras_sigmas")) continue;
    for (const auto* ending : {"_karras", "_exponential", "_beta"}) names.push_back(name + ending);
  }
  EXPECT_EQ(Scheduler::names(), names);
  for (const auto& name : Scheduler::names())
    EXPECT_THAT(Scheduler::from_config("{}", name)->class_name(), testing::EndsWith("Scheduler"));
}

TEST(SchedulerConfig, ReadsTheNamesOfOtherPrograms) {
  for (const auto& [theirs, ours] :
       std::vector<std::pair<std::string, std::string>>{{"Euler", "euler"},
                                                        {"Euler a", "euler_ancestral"},
                                                        {"euler_a", "euler_ancestral"},
                                                        {"k_euler_a", "euler_ancestral"},
                                                        {"k_euler", "euler"},
                                                        {"Heun", "heun"},
                                                        {"DPM++ 2M", "dpmpp_2m"},
                                                        {"DPM++ 2M Karras", "dpmpp_2m_karras"},
                                                        {"dpmsolver++", "dpmpp_2m"},
                                                        {"DPM++ 2M SDE Exponential", "dpmpp_2m_sde_exponential"},
                                                        {"DPM++ 3M SDE Karras", "dpmpp_3m_sde_karras"},
                                                        {"DPM++ SDE", "dpmpp_sde"},
                                                        {"DPM++ SDE Karras", "dpmpp_sde_karras"},
                                                        {"dpmsingle", "dpmpp_2s"},
                                                        {"DEIS", "deis"},
                                                        {"UniPC", "unipc"},
                                                        {"uni_pc", "unipc"},
                                                        {"Euler Beta", "euler_beta"},
                                                        {"PLMS", "pndm"},
                                                        {"DDIM", "ddim"},
                                                        {"LCM", "lcm"},
                                                        {"TCD", "tcd"}})
    EXPECT_EQ(Scheduler::from_config("{}", theirs)->config(), Scheduler::from_config("{}", ours)->config()) << theirs;
  for (const std::string other : {"Euler a Karras", "DPM++ 2S a", "DDIM_beta", "karras", "DPM2", "Restart"})
    expect_error("{}", ErrorKind::usage, AllOf(HasSubstr(other), HasSubstr("dpmpp_2m_karras")), other);
}

TEST(SchedulerConfig, ShortNamesSetWhatTheyStandFor) {
  auto given = config("DPMSolverMultistepScheduler", {{"use_karras_sigmas", true}, {"solver_order", 3}});
  auto read = [&](const std::string& name) {
    return Json::parse(numbers_only(Scheduler::from_config(given, name)->config()));
  };
  EXPECT_EQ(read("dpmpp_2m").at("use_karras_sigmas"), false);
  EXPECT_EQ(read("dpmpp_2m_karras").at("use_karras_sigmas"), true);
  EXPECT_EQ(read("dpmpp_2m").at("solver_order"), 2);
  EXPECT_EQ(read("dpmpp_2m").at("algorithm_type"), "dpmsolver++");
  EXPECT_EQ(read("dpmpp_2m_beta").at("use_beta_sigmas"), true);
  EXPECT_EQ(read("dpmpp_2m_beta").at("use_karras_sigmas"), false);
  EXPECT_EQ(read("dpmpp_2m_sde").at("algorithm_type"), "sde-dpmsolver++");
  EXPECT_EQ(read("dpmpp_3m_sde").at("solver_order"), 3);
  EXPECT_EQ(read("dpmpp_2s").at("solver_order"), 2);
  EXPECT_EQ(read("unipc").at("use_karras_sigmas"), true) << "the config's own";
  EXPECT_EQ(read("unipc_exponential").at("use_karras_sigmas"), false);
  EXPECT_EQ(read("unipc_exponential").at("use_exponential_sigmas"), true);
  auto sde = config("DPMSolverMultistepScheduler", {{"algorithm_type", "sde-dpmsolver++"}, {"solver_type", "heun"}});
  EXPECT_EQ(Json::parse(Scheduler::from_config(sde, "deis")->config()).at("algorithm_type"), "deis");
  expect_error(config("dpmpp_2m"), ErrorKind::unsupported, HasSubstr("dpmpp_2m"));
}

TEST(SchedulerConfig, DefaultsAreTheNewClasssWhenTheClassChanges) {
  auto ddim = Scheduler::from_config(config("DDIMScheduler", {{"clip_sample", false}, {"_made_by", "me"}}));
  auto euler = Scheduler::from_config(ddim->config(), "euler");
  auto read = Json::parse(euler->config());
  EXPECT_EQ(read.at("timestep_spacing"), "linspace");
  EXPECT_EQ(read.at("clip_sample"), false);
  EXPECT_EQ(read.at("_made_by"), "me");
  EXPECT_EQ(Json::parse(Scheduler::from_config(euler->config(), "ddim")->config()), Json::parse(ddim->config()));
}

TEST(SchedulerConfig, ReadsAndWritesPythonsInfinities) {
  auto text =
      R"({"_class_name": "DPMSolverMultistepScheduler", "lambda_min_clipped": -Infinity, "_note": "a \" Infinity"})";
  auto scheduler = Scheduler::from_config(text);
  EXPECT_THAT(scheduler->config(),
              AllOf(HasSubstr("\"lambda_min_clipped\": -Infinity,"), HasSubstr("a \\\" Infinity")));
  EXPECT_EQ(Scheduler::from_config(scheduler->config())->config(), scheduler->config());
  expect_error(R"({"_class_name": "DDIMScheduler", "beta_start": NaN})", ErrorKind::bad_file, HasSubstr("beta_start"));
  expect_error(R"({"_class_name": "DDIMScheduler", "beta_start": Infinity})", ErrorKind::unsupported,
               HasSubstr("beta_start"));
}

TEST(SchedulerConfig, NullMeansFalseForAFlag) {
  EXPECT_NO_THROW(Scheduler::from_config(config("EulerDiscreteScheduler", {{"use_karras_sigmas", nullptr}})));
  EXPECT_NO_THROW(Scheduler::from_config(config("EulerDiscreteScheduler", {{"use_beta_sigmas", nullptr}})));
}

TEST(SchedulerConfig, RefusesOtherClasses) {
  expect_error(config("KDPM2DiscreteScheduler"), ErrorKind::unsupported,
               AllOf(HasSubstr("KDPM2DiscreteScheduler"), HasSubstr("DDIMScheduler"), HasSubstr("LCMScheduler"),
                     HasSubstr("dpmpp_2m_karras")));
  expect_error("{}", ErrorKind::usage, HasSubstr("dpm2"), "dpm2");
  expect_error("{}", ErrorKind::bad_file, HasSubstr("_class_name"));
  expect_error(R"({"_class_name": 3})", ErrorKind::bad_file, HasSubstr("_class_name"));
}

TEST(SchedulerConfig, RefusesUnknownFields) {
  expect_error(config("DDIMScheduler", {{"clip_sampel", true}}), ErrorKind::unsupported,
               AllOf(HasSubstr("DDIMScheduler"), HasSubstr("clip_sampel"), HasSubstr("\"clip_sample\"")));
  expect_error(config("FlowMatchEulerDiscreteScheduler", {{"base_shift", 0.5}}), ErrorKind::unsupported,
               HasSubstr("base_shift"), "euler");
  EXPECT_NO_THROW(Scheduler::from_config(config("PNDMScheduler", {{"clip_sample", "of another class, not read"}})));
}

TEST(SchedulerConfig, RefusesUnsupportedValues) {
  struct Case {
    const char* class_name;
    Json fields;
    const char* named;
  };
  auto dpm = "DPMSolverMultistepScheduler", euler = "EulerDiscreteScheduler";
  auto flow = "FlowMatchEulerDiscreteScheduler", amused = "AmusedScheduler", deis = "DEISMultistepScheduler";
  auto single = "DPMSolverSinglestepScheduler", unipc = "UniPCMultistepScheduler";
  for (const auto& [class_name, fields, named] : std::vector<Case>{
           {"DDIMScheduler", {{"prediction_type", "flow"}}, "\"v_prediction\""},
           {"PNDMScheduler", {{"prediction_type", "sample"}}, "prediction_type"},
           {"EulerAncestralDiscreteScheduler", {{"prediction_type", "sample"}}, "prediction_type"},
           {"DDIMScheduler", {{"beta_schedule", "sigmoid"}}, "squaredcos_cap_v2"},
           {"DDIMScheduler", {{"timestep_spacing", "karras"}}, "timestep_spacing"},
           {"DDIMScheduler", {{"num_train_timesteps", 0}}, "num_train_timesteps"},
           {"DDIMScheduler", {{"num_train_timesteps", 1000000000}}, "num_train_timesteps"},
           {"DDIMScheduler", {{"num_train_timesteps", uint64_t{1} << 63}}, "num_train_timesteps"},
           {"DDIMScheduler", {{"beta_end", 1.5}}, "beta_end"},
           {euler, {{"use_beta_sigmas", true}, {"use_karras_sigmas", true}}, "use_karras_sigmas and use_beta_sigmas"},
           {euler, {{"use_karras_sigmas", true}, {"use_exponential_sigmas", true}}, "use_exponential_sigmas"},
           {euler, {{"final_sigmas_type", "one"}}, "final_sigmas_type"},
           {euler, {{"interpolation_type", "cubic"}}, "interpolation_type"},
           {dpm, {{"use_flow_sigmas", true}, {"use_karras_sigmas", true}}, "use_flow_sigmas"},
           {dpm, {{"use_flow_sigmas", true}, {"use_lu_lambdas", true}}, "use_lu_lambdas"},
           {dpm, {{"prediction_type", "flow_prediction"}}, "use_flow_sigmas"},
           {dpm,
            {{"prediction_type", "flow_prediction"},
             {"use_flow_sigmas", true},
             {"algorithm_type", "dpmsolver"},
             {"final_sigmas_type", "sigma_min"}},
            "flow_prediction"},
           {single, {{"algorithm_type", "sde-dpmsolver"}}, "algorithm_type"},
           {single, {{"algorithm_type", "dpmsolver"}}, "final_sigmas_type"},
           {deis, {{"algorithm_type", "sde-dpmsolver++"}}, "algorithm_type"},
           {deis, {{"solver_order", 4}}, "solver_order"},
           {deis, {{"use_flow_sigmas", true}, {"use_beta_sigmas", true}}, "use_flow_sigmas"},
           {unipc, {{"solver_type", "bh3"}}, "solver_type"},
           {unipc, {{"predict_x0", false}}, "final_sigmas_type"},
           {unipc, {{"lower_order_final", false}}, "lower_order_final"},
           {unipc, {{"shift_terminal", 0.1}}, "use_flow_sigmas"},
           {unipc, {{"use_flow_sigmas", true}, {"use_exponential_sigmas", true}}, "use_flow_sigmas"},
           {unipc,
            {{"use_flow_sigmas", true},
             {"prediction_type", "flow_prediction"},
             {"predict_x0", false},
             {"final_sigmas_type", "sigma_min"}},
            "predict_x0"},
           {unipc, {{"use_dynamic_shifting", true}}, "use_dynamic_shifting"},
           {"HeunDiscreteScheduler", {{"beta_schedule", "laplace"}}, "\"exp\""},
           {"DPMSolverSDEScheduler", {{"noise_sampler_seed", 3}}, "noise_sampler_seed"},
           {"DPMSolverSDEScheduler", {{"prediction_type", "sample"}}, "prediction_type"},
           {"TCDScheduler", {{"original_inference_steps", 2000}}, "original_inference_steps"},
           {dpm, {{"variance_type", "learned_range"}}, "variance_type"},
           {dpm, {{"use_dynamic_shifting", true}}, "use_dynamic_shifting"},
           {dpm, {{"solver_order", 4}}, "solver_order"},
           {dpm, {{"algorithm_type", "rk"}}, "algorithm_type"},
           {dpm, {{"algorithm_type", "dpmsolver"}}, "final_sigmas_type"},
           {dpm,
            {{"algorithm_type", "sde-dpmsolver"}, {"final_sigmas_type", "sigma_min"}, {"solver_order", 3}},
            "solver_order"},
           {"LCMScheduler", {{"original_inference_steps", 2000}}, "original_inference_steps"},
           {flow, {{"use_beta_sigmas", true}, {"use_karras_sigmas", true}}, "use_beta_sigmas"},
           {flow, {{"use_karras_sigmas", true}, {"use_exponential_sigmas", true}}, "use_exponential_sigmas"},
           {flow, {{"time_shift_type", "cubic"}}, "time_shift_type"},
           {flow, {{"shift", 0}}, "shift"},
           {flow, {{"shift_terminal", 1}}, "shift_terminal"},
           {flow, {{"shfit", 3}}, "shfit"},
           {amused, {{"mask_token_id", 9}, {"masking_schedule", "sigmoid"}}, "masking_schedule"},
           {amused, {{"mask_token_id", -1}}, "mask_token_id"}})
    expect_error(config(class_name, fields), ErrorKind::unsupported, AllOf(HasSubstr(class_name), HasSubstr(named)));
}

TEST(SchedulerConfig, RefusesWhatIsNoConfig) {
  auto ddim = [](Json fields) { return config("DDIMScheduler", std::move(fields)); };
  for (const auto& text :
       std::vector<std::string>{"",
                                "{",
                                "[]",
                                "3",
                                "\"",
                                "\"\\",
                                "-Infinity",
                                "{\"_class_name\": \"DDIMScheduler\xff\"}",
                                std::string(100000, '['),
                                "{\"_class_name\": \"DDIMScheduler\", \"_a\": " + std::string(100000, '['),
                                R"({"_class_name": "DDIMScheduler", "_a": [[[[[[[[[[0]]]]]]]]]]})",
                                ddim({{"num_train_timesteps", 10.5}}),
                                ddim({{"num_train_timesteps", "10"}}),
                                ddim({{"beta_start", nullptr}}),
                                ddim({{"clip_sample", 1}}),
                                ddim({{"beta_schedule", 1}}),
                                ddim({{"trained_betas", "x"}}),
                                ddim({{"trained_betas", Json::array()}}),
                                ddim({{"trained_betas", {0.1, "x"}}}),
                                ddim({{"trained_betas", {0.1, 0.2}}}),
                                ddim({{"_use_default_values", 1}}),
                                ddim({{"_use_default_values", {1}}}),
                                config("AmusedScheduler"),
                                config("AmusedScheduler", {{"mask_token_id", "last"}}),
                                config("FlowMatchEulerDiscreteScheduler", {{"shift", "twice"}}),
                                config("UniPCMultistepScheduler", {{"disable_corrector", 1}}),
                                config("UniPCMultistepScheduler", {{"disable_corrector", {"first"}}}),
                                config("UniPCMultistepScheduler", {{"solver_p", "DDIMScheduler"}}),
                                config("DPMSolverSDEScheduler", {{"noise_sampler_seed", "one"}})})
    expect_error(text, ErrorKind::bad_file, testing::_);
}

TEST(SchedulerConfig, FromPretrainedNamesTheFile) {
  auto folder = std::filesystem::temp_directory_path() / "lora_scheduler_config_test";
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  auto load = [&]() -> std::string {
    try {
      return Scheduler::from_pretrained(folder)->class_name();
    } catch (const Error& error) {
      return std::string(to_string(error.kind())) + " " + error.what();
    }
  };
  EXPECT_THAT(load(), AllOf(HasSubstr("not_found"), HasSubstr("scheduler_config.json")));
  std::ofstream(folder / "scheduler_config.json") << R"({"_class_name": "DDIMScheduler", "stepz": 1})";
  EXPECT_THAT(load(), AllOf(HasSubstr("unsupported"), HasSubstr("scheduler_config.json"), HasSubstr("stepz")));
  std::ofstream(folder / "scheduler_config.json") << config("LCMScheduler");
  EXPECT_EQ(load(), "LCMScheduler");
  std::filesystem::remove_all(folder);
}

TEST(SchedulerConfig, TypedAccess) {
  auto flow = [](const Json& fields = Json::object()) {
    return Scheduler::from_config(fields.dump(), "flow_match_euler");
  };
  EXPECT_EQ(flow({{"num_train_timesteps", 500}})->num_train_timesteps(), 500);
  EXPECT_EQ(flow()->mask_token_id(), std::nullopt);
  EXPECT_EQ(flow()->mu_for(1024), std::nullopt);
  EXPECT_DOUBLE_EQ(flow({{"use_dynamic_shifting", true}})->mu_for(256).value(), 0.5);
  EXPECT_DOUBLE_EQ(flow({{"use_dynamic_shifting", true}})->mu_for(4096).value(), 1.15);
  Json fields{{"use_dynamic_shifting", true}, {"base_shift", 1}, {"max_shift", 2}, {"base_image_seq_len", 0}};
  fields["max_image_seq_len"] = 1000;
  EXPECT_DOUBLE_EQ(flow(fields)->mu_for(250).value(), 1.25);

  auto amused = Scheduler::from_config(R"({"mask_token_id": 9, "num_train_timesteps": "many"})", "AmusedScheduler");
  EXPECT_EQ(amused->mask_token_id(), 9);
  EXPECT_EQ(amused->num_train_timesteps(), std::nullopt);
  EXPECT_EQ(amused->mu_for(1024), std::nullopt);
}

}  // namespace lora
