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

template <class Matcher>
void expect_error(const std::string& json, ErrorKind kind, const Matcher& message, const std::string& class_name = "") {
  SCOPED_TRACE(json.substr(0, 200));
  expect_error(kind, message, [&] { Scheduler::from_config(json, class_name); });
}

}  // namespace

TEST(SchedulerConfig, NamesEveryClassAndShortName) {
  for (const auto* name :
       {"DDIMScheduler", "PNDMScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler",
        "DPMSolverMultistepScheduler", "LCMScheduler", "FlowMatchEulerDiscreteScheduler"}) {
    EXPECT_EQ(Scheduler::from_config(config(name))->class_name(), name);
    EXPECT_EQ(Scheduler::from_config("{}", name)->class_name(), name);
  }
  EXPECT_EQ(Scheduler::from_config(config("AmusedScheduler", {{"mask_token_id", 9}}))->class_name(), "AmusedScheduler");
  EXPECT_THAT(Scheduler::names(), testing::ElementsAre("ddim", "pndm", "euler", "euler_ancestral", "dpmpp_2m",
                                                       "dpmpp_2m_karras", "lcm", "flow_match_euler"));
  for (const auto& name : Scheduler::names())
    EXPECT_THAT(Scheduler::from_config("{}", name)->class_name(), testing::EndsWith("Scheduler"));
}

TEST(SchedulerConfig, ShortNamesSetWhatTheyStandFor) {
  auto given = config("DPMSolverMultistepScheduler", {{"use_karras_sigmas", true}, {"solver_order", 3}});
  auto read = [&](const std::string& name) {
    auto text = Scheduler::from_config(given, name)->config();
    return Json::parse(text.replace(text.find("-Infinity"), 9, "0"));
  };
  EXPECT_EQ(read("dpmpp_2m").at("use_karras_sigmas"), false);
  EXPECT_EQ(read("dpmpp_2m_karras").at("use_karras_sigmas"), true);
  EXPECT_EQ(read("dpmpp_2m").at("solver_order"), 2);
  EXPECT_EQ(read("dpmpp_2m").at("algorithm_type"), "dpmsolver++");
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
  expect_error(config("UniPCMultistepScheduler"), ErrorKind::unsupported,
               AllOf(HasSubstr("UniPCMultistepScheduler"), HasSubstr("DDIMScheduler"), HasSubstr("LCMScheduler"),
                     HasSubstr("dpmpp_2m_karras")));
  expect_error("{}", ErrorKind::usage, HasSubstr("heun"), "heun");
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
  auto flow = "FlowMatchEulerDiscreteScheduler", amused = "AmusedScheduler";
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
           {euler, {{"use_beta_sigmas", true}}, "use_beta_sigmas"},
           {euler, {{"use_karras_sigmas", true}, {"use_exponential_sigmas", true}}, "use_exponential_sigmas"},
           {euler, {{"final_sigmas_type", "one"}}, "final_sigmas_type"},
           {euler, {{"interpolation_type", "cubic"}}, "interpolation_type"},
           {dpm, {{"use_flow_sigmas", true}}, "use_flow_sigmas"},
           {dpm, {{"prediction_type", "flow_prediction"}}, "flow_prediction"},
           {dpm, {{"variance_type", "learned_range"}}, "variance_type"},
           {dpm, {{"use_dynamic_shifting", true}}, "use_dynamic_shifting"},
           {dpm, {{"solver_order", 4}}, "solver_order"},
           {dpm, {{"algorithm_type", "rk"}}, "algorithm_type"},
           {dpm, {{"algorithm_type", "dpmsolver"}}, "final_sigmas_type"},
           {dpm,
            {{"algorithm_type", "sde-dpmsolver"}, {"final_sigmas_type", "sigma_min"}, {"solver_order", 3}},
            "solver_order"},
           {"LCMScheduler", {{"original_inference_steps", 2000}}, "original_inference_steps"},
           {flow, {{"use_beta_sigmas", true}}, "use_beta_sigmas"},
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
                                config("FlowMatchEulerDiscreteScheduler", {{"shift", "twice"}})})
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
