// What callers may get wrong, and what the reference gets wrong.
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "lora/error.h"
#include "lora/scheduler.h"
#include "nn/random.h"
#include "schedulers/errors.h"

namespace lora {

namespace {

using testing::AllOf;
using testing::HasSubstr;
using Json = nlohmann::json;

std::unique_ptr<Scheduler> make(const std::string& name, Json fields = Json::object()) {
  fields["beta_schedule"] = "scaled_linear";
  return Scheduler::from_config(fields.dump(), name);
}

const Tensor& sample() {
  static const Tensor x = at::randn({2, 4, 2, 2}, make_generator(1));
  return x;
}

}  // namespace

TEST(SchedulerSteps, CountsAreChecked) {
  for (const auto& name : Scheduler::names()) {
    SCOPED_TRACE(name);
    auto scheduler = make(name);
    for (int steps : {-1, 0, 1001, std::numeric_limits<int>::max()})
      expect_error(ErrorKind::usage, AllOf(HasSubstr(std::to_string(steps)), HasSubstr("to ")),
                   [&] { scheduler->set_timesteps(steps); });
  }
  for (const auto* name : {"lcm", "tcd"})
    expect_error(ErrorKind::usage, HasSubstr("1 to 50"), [&] { make(name)->set_timesteps(51); });
  for (const auto* name : {"dpmpp_2s", "deis", "unipc"})
    expect_error(ErrorKind::usage, HasSubstr("1 to 999"), [&] { make(name)->set_timesteps(1000); });
  expect_error(ErrorKind::usage, HasSubstr("4 to 1000"), [] { make("pndm")->set_timesteps(3); });
  expect_error(ErrorKind::usage, HasSubstr("1 to 999"), [] { make("dpmpp_2m")->set_timesteps(1000); });
  expect_error(ErrorKind::usage, HasSubstr("timestep 1000"), [] {
    make("ddim", {{"steps_offset", 1}})->set_timesteps(1000);
  });
  expect_error(ErrorKind::usage, HasSubstr("lambda_min_clipped"), [] {
    make("dpmpp_2m", {{"lambda_min_clipped", 100}, {"timestep_spacing", "trailing"}})->set_timesteps(5);
  });
}

TEST(SchedulerSteps, OptionsAreChecked) {
  for (const auto& name : Scheduler::names()) {
    SCOPED_TRACE(name);
    auto scheduler = make(name);
    expect_error(ErrorKind::usage, AllOf(HasSubstr(scheduler->class_name()), HasSubstr("temperature")),
                 [&] { scheduler->set_timesteps(5, {.temperature = std::pair(2.0, 0.0)}); });
    if (name == "flow_match_euler") continue;
    expect_error(ErrorKind::usage, HasSubstr("does not take the option mu"),
                 [&] { scheduler->set_timesteps(5, {.mu = 1.0}); });
    expect_error(ErrorKind::usage, HasSubstr("does not take the option sigmas"),
                 [&] { scheduler->set_timesteps(1, {.sigmas = {1}}); });
  }
  auto flow = make("flow_match_euler");
  expect_error(ErrorKind::usage, AllOf(HasSubstr("2 sigmas"), HasSubstr("3 steps")), [&] {
    flow->set_timesteps(3, {.sigmas = {1, 0.5}});
  });
  for (double sigma : {0.0, -0.5, 1.5, std::nan("")})
    expect_error(ErrorKind::usage, HasSubstr("above 0 and up to 1"), [&] {
      flow->set_timesteps(2, {.sigmas = {1, sigma}});
    });
  expect_error(ErrorKind::usage, HasSubstr("needs mu"), [] {
    make("flow_match_euler", {{"use_dynamic_shifting", true}})->set_timesteps(5);
  });
  for (double mu : {0.0, -1.0, std::nan("")})
    expect_error(ErrorKind::usage, HasSubstr("above 0"), [&] {
      make("flow_match_euler", {{"use_dynamic_shifting", true}, {"time_shift_type", "linear"}})
          ->set_timesteps(5, {.mu = mu});
    });
  // One step ends where it begins, at sigma 1: the reference divides 0 by 0.
  expect_error(ErrorKind::usage, HasSubstr("more steps"), [] {
    make("flow_match_euler", {{"shift_terminal", 0.1}})->set_timesteps(1);
  });
}

TEST(SchedulerSteps, EveryCountThatIsAllowedGivesARun) {
  for (const auto& name : Scheduler::names())
    for (const auto* spacing : {"linspace", "leading", "trailing"}) {
      SCOPED_TRACE(name + " " + spacing);
      auto scheduler = make(name, {{"timestep_spacing", spacing}, {"skip_prk_steps", true}});
      // Each step of a second-order scheduler but the last has two timesteps.
      auto timesteps_of = [&](int steps) { return scheduler->order() * (steps - 1) + 1; };
      bool distilled = name == "lcm" || name == "tcd";
      bool slow = name.ends_with("_karras") || name.ends_with("_exponential") || name.ends_with("_beta");
      for (int steps = 1; steps < (distilled ? 51 : 1000); steps += slow && steps > 70 ? 31 : 1) {
        scheduler->set_timesteps(steps);
        auto count = scheduler->timesteps().numel();
        ASSERT_TRUE(count == timesteps_of(steps) || count == timesteps_of(steps + 1)) << steps;
        bool from_table = name == "ddim" || name == "pndm" || distilled;
        ASSERT_TRUE(!from_table || scheduler->timesteps().min().item<int64_t>() >= 0) << steps;
      }
    }
}

TEST(SchedulerSteps, NeedARun) {
  for (const auto& name : Scheduler::names()) {
    SCOPED_TRACE(name);
    auto scheduler = make(name);
    EXPECT_EQ(scheduler->timesteps().numel(), 0);
    auto t = at::tensor(int64_t{1});
    expect_error(ErrorKind::usage, HasSubstr("set_timesteps"), [&] { scheduler->step(sample(), t, sample()); });
  }
  expect_error(ErrorKind::usage, HasSubstr("set_timesteps"),
               [&] { make("euler")->scale_model_input(sample(), at::tensor(1.0f)); });
  expect_error(ErrorKind::usage, HasSubstr("set_timesteps"), [&] {
    make("euler")->add_noise(sample(), sample(), at::tensor({1.0f, 1.0f}));
  });
}

TEST(SchedulerSteps, EndWithTheRun) {
  for (const auto& name : Scheduler::names()) {
    if (name == "ddim" || name == "pndm") continue;  // their steps depend only on their timesteps
    SCOPED_TRACE(name);
    auto scheduler = make(name);
    scheduler->set_timesteps(2);
    auto count = scheduler->timesteps().numel();
    EXPECT_EQ(count, scheduler->order() + 1);
    for (int64_t i = 0; i < count; ++i) scheduler->step(sample(), scheduler->timesteps()[i], sample());
    expect_error(ErrorKind::usage, HasSubstr("all " + std::to_string(count) + " steps are done"),
                 [&] { scheduler->step(sample(), scheduler->timesteps()[count - 1], sample()); });
  }
}

TEST(SchedulerSteps, InputsAreChecked) {
  for (const auto& name : Scheduler::names()) {
    SCOPED_TRACE(name);
    auto scheduler = make(name);
    scheduler->set_timesteps(5);
    auto t = scheduler->timesteps()[0];
    expect_error(ErrorKind::bad_shape, HasSubstr("[2, 4, 2, 1]"), [&] {
      scheduler->step(at::zeros({2, 4, 2, 1}), t, sample());
    });
    expect_error(ErrorKind::usage, HasSubstr("floating"),
                 [&] { scheduler->step(sample().to(at::kInt), t, sample().to(at::kInt)); });
    expect_error(ErrorKind::usage, HasSubstr("one number"),
                 [&] { scheduler->step(sample(), scheduler->timesteps(), sample()); });
    expect_error(ErrorKind::usage, HasSubstr("12345"), [&] { scheduler->step(sample(), at::tensor(12345), sample()); });
    expect_error(ErrorKind::bad_shape, HasSubstr("3 timesteps"),
                 [&] { scheduler->add_noise(sample(), sample(), scheduler->timesteps().slice(0, 0, 3)); });
    expect_error(ErrorKind::bad_shape, HasSubstr("shapes must be equal"),
                 [&] { scheduler->add_noise(sample(), sample()[0], scheduler->timesteps().slice(0, 0, 2)); });
    expect_error(ErrorKind::usage, HasSubstr("12345"), [&] {
      scheduler->add_noise(sample(), sample(), at::tensor({12345, 12345}));
    });
  }
  auto euler = make("euler");
  euler->set_timesteps(5);
  expect_error(ErrorKind::usage, HasSubstr("5"), [&] { euler->set_begin_index(5); });
  for (const auto* name : {"ddim", "tcd"}) {
    auto scheduler = make(name);
    scheduler->set_timesteps(5);
    expect_error(ErrorKind::usage, HasSubstr("eta"),
                 [&] { scheduler->step(sample(), scheduler->timesteps()[0], sample(), {.eta = 1.5}); });
  }
}

TEST(SchedulerSteps, WrongGeneratorsLeaveTheRunAsItWas) {
  for (const auto* name : {"euler_ancestral", "lcm", "tcd", "dpmpp_sde", "dpmpp_2m_sde"}) {
    SCOPED_TRACE(name);
    auto scheduler = make(name);
    scheduler->set_timesteps(3);
    auto t = scheduler->timesteps()[0];
    SchedulerStepOptions wrong{.eta = 0.5, .generators = {make_generator(1), make_generator(2), make_generator(3)}};
    expect_error(ErrorKind::usage, HasSubstr("batch of 2"), [&] { scheduler->step(sample(), t, sample(), wrong); });
    auto step = [&](Scheduler& s) {
      return s.step(sample(), t, sample(), {.generators = {make_generator(1)}}).prev_sample;
    };
    auto fresh = scheduler->clone();
    fresh->set_timesteps(3);
    EXPECT_TRUE(at::equal(step(*scheduler), step(*fresh)));
  }
}

// 1 - alpha_bar - sigma² may round to below 0 at zero terminal SNR, where the reference's image becomes NaN.
TEST(SchedulerSteps, DDIMWithEtaOneIsFiniteAtZeroTerminalSNR) {
  auto ddim = make("ddim", {{"rescale_betas_zero_snr", true},
                            {"prediction_type", "v_prediction"},
                            {"timestep_spacing", "trailing"},
                            {"clip_sample", false}});
  ddim->set_timesteps(10);
  auto x = sample();
  for (int64_t i = 0; i < 10; ++i) {
    auto t = ddim->timesteps()[i];
    x = ddim->step(0.5 * x, t, x, {.eta = 1, .generators = {make_generator(4)}}).prev_sample;
  }
  EXPECT_TRUE(at::isfinite(x).all().item<bool>());
}

// The reference multiplies the infinite length of the last step by 0.
TEST(SchedulerSteps, UniPCWithBh1IsFiniteToTheLevelZero) {
  auto run = [](const char* solver_type) {
    auto unipc = make("unipc", {{"solver_type", solver_type}});
    unipc->set_timesteps(8);
    auto x = sample();
    for (int64_t i = 0; i < 8; ++i) {
      auto t = unipc->timesteps()[i];
      x = unipc->step(0.5 * x, t, x).prev_sample;
    }
    return x;
  };
  EXPECT_TRUE(at::isfinite(run("bh1")).all().item<bool>());
  EXPECT_LE((run("bh1") - run("bh2")).abs().max().item<double>(), 0.1 * run("bh2").abs().max().item<double>());
}

// The noise of a whole step goes on from that of its first half. The middle is the geometric mean of the two levels.
TEST(SchedulerSteps, TheNoiseOfAnSDEStepIsOnePath) {
  auto scheduler = make("dpmpp_sde");
  scheduler->set_timesteps(10);
  auto t = scheduler->timesteps();
  auto zeros = at::zeros({1, 4, 128, 128});
  auto ones = at::ones({2, 1});
  auto level = scheduler->add_noise(0 * ones, ones, t.index_select(0, at::tensor({int64_t{0}, int64_t{2}})));
  double from = level[0].item<double>(), to = level[1].item<double>(), middle = std::sqrt(from * to);
  // Where sample and output are 0, only the noise is left.
  SchedulerStepOptions options{.generators = {make_generator(3)}};
  auto half = scheduler->step(zeros, t[0], zeros, options).prev_sample;
  auto whole = scheduler->step(zeros, t[1], zeros, options).prev_sample;
  auto up = [&](double a, double b) { return b * std::sqrt(a * a - b * b) / a; };
  EXPECT_NEAR(half.std().item<double>(), up(from, middle), 0.02 * up(from, middle));
  EXPECT_NEAR(whole.std().item<double>(), up(from, to), 0.02 * up(from, to));
  auto correlation = (half * whole).mean().item<double>() / (half.std() * whole.std()).item<double>();
  EXPECT_NEAR(correlation, std::sqrt((from - middle) / (from - to)), 0.02);
}

// The reference takes the second of two equal timesteps for the first, and runs out of levels.
TEST(SchedulerSteps, AWholeRunMayBeginWithTwoEqualTimesteps) {
  auto scheduler = Scheduler::from_config(R"({"beta_schedule": "squaredcos_cap_v2", "use_karras_sigmas": true})",
                                          "DPMSolverMultistepScheduler");
  scheduler->set_timesteps(8);
  auto t = scheduler->timesteps();
  ASSERT_EQ(t[0].item<int64_t>(), t[1].item<int64_t>());
  for (int64_t i = 0; i < 8; ++i) EXPECT_NO_THROW(scheduler->step(sample(), t[i], sample()));
}

}  // namespace lora
