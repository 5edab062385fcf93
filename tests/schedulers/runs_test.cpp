// Every run of tests/data/schedulers/*runs.json again, beside what the reference made of it (see
// tools/reference/make_schedulers.py). With the same libtorch most numbers are equal bit for bit; the tolerances leave
// room for other CPUs, whose vector units round some functions differently.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <fstream>

#include "core/text.h"
#include "lora/scheduler.h"
#include "lora/state_dict.h"
#include "nn/random.h"

namespace lora {

namespace {

using Json = nlohmann::json;

const std::string kData = LORA_SOURCE_DIR "/tests/data/schedulers/";

// One step of rounding, carried through a run, stays below this share of the run's largest value.
double tolerance(Dtype dtype) {
  switch (dtype) {
    case at::kBFloat16: return 0.02;  // 2.5 units of its 8 bits
    case at::kHalf: return 0.0025;    // 2.5 units of its 11 bits
    default: return 1e-6;
  }
}

double relative_error(const Tensor& actual, const Tensor& expected) {
  auto largest = expected.to(at::kDouble).abs().max();
  return ((actual.to(at::kDouble) - expected.to(at::kDouble)).abs().max() / largest).item<double>();
}

void expect_close(const char* what, const Tensor& actual, const Tensor& expected) {
  ASSERT_EQ(actual.sizes(), expected.sizes()) << what;
  EXPECT_EQ(actual.scalar_type(), expected.scalar_type()) << what;
  EXPECT_LE(relative_error(actual, expected), tolerance(expected.scalar_type())) << what;
}

Tensor model(const Tensor& x, const Tensor& t) { return 0.7 * x * at::cos(t / 100) + 0.1 * at::sin(3 * x); }

class ReferenceRun {
 public:
  ReferenceRun(const Json& run, const StateDict& data)
      : run_(run), data_(data), dtype_(dtype_of(run)), scheduler_(make(run)) {
    for (const auto& seed : run.value("seeds", Json::array())) options_.generators.push_back(make_generator(seed));
    options_.eta = run.value("eta", 0.0);
    SetTimestepsOptions options{.sigmas = run.value("sigmas", std::vector<double>())};
    if (run.contains("mu")) options.mu = run.at("mu");
    scheduler_->set_timesteps(run.at("steps"), options);
  }

  void check() {
    check_levels();
    take_steps();
    EXPECT_EQ(with_python_numbers(scheduler_->config()), sorted(run_.at("config")));
  }

 private:
  static Dtype dtype_of(const Json& run) { return parse_dtype(run.value("dtype", "float32")); }
  static std::unique_ptr<Scheduler> make(const Json& run) {
    return Scheduler::from_config(run.at("given").dump(), run.value("class_name", ""));
  }

  static Json sorted(Json config) {
    auto defaults = config.value("_use_default_values", std::vector<std::string>{});
    std::sort(defaults.begin(), defaults.end());
    if (!defaults.empty()) config["_use_default_values"] = defaults;
    return config;
  }
  static Json with_python_numbers(const std::string& config) {
    return sorted(Json::parse(replace_all(config, "-Infinity", "\"-Infinity\"")));
  }

  Tensor expected(const std::string& what) const { return data_.at(run_.at("name").get<std::string>() + "/" + what); }

  void check_levels() {
    auto timesteps = scheduler_->timesteps(), wanted = expected("timesteps");
    ASSERT_EQ(timesteps.scalar_type(), wanted.scalar_type());
    // numpy rounds some functions of float64 differently from the standard library.
    double rtol = wanted.scalar_type() == at::kDouble ? 1e-13 : 0;
    ASSERT_TRUE(timesteps.sizes() == wanted.sizes() && at::allclose(timesteps, wanted, rtol, /*atol=*/0))
        << timesteps << wanted;
    EXPECT_FLOAT_EQ(static_cast<float>(scheduler_->init_noise_sigma()), run_.at("init_noise_sigma").get<float>());
    auto ones = at::ones({timesteps.size(0), 1});
    auto levels = scheduler_->add_noise(0 * ones, ones, timesteps).flatten();
    EXPECT_TRUE(at::allclose(levels, expected("levels"), /*rtol=*/1.2e-7, /*atol=*/0));
    auto pair = timesteps.index_select(0, at::tensor({int64_t{0}, timesteps.size(0) / 2}));
    expect_close("noised", scheduler_->add_noise(input("sample"), input("noise"), pair), expected("noised"));
  }

  void take_steps() {
    auto timesteps = scheduler_->timesteps();
    auto x = input("noise") * scheduler_->init_noise_sigma();
    int64_t begin = run_.value("begin", run_.value("middle", 0));
    if (run_.contains("begin")) scheduler_->set_begin_index(static_cast<int>(begin));
    if (begin) x = scheduler_->add_noise(input("sample"), input("noise"), timesteps[begin]);

    auto samples = expected("samples");
    size_t next = 0;
    for (auto i = begin; i < timesteps.size(0); ++i) {
      auto t = timesteps[i];
      auto output = scheduler_->step(model(scheduler_->scale_model_input(x, t), t), t, x, options_);
      x = output.prev_sample;
      if (i == begin) check_clean(output.pred_original_sample);
      if (run_["kept"][next] != i - begin) continue;
      SCOPED_TRACE("step " + std::to_string(i));
      expect_close("sample", x, samples[static_cast<int64_t>(next++)]);
    }
    EXPECT_EQ(next, run_["kept"].size());
  }

  void check_clean(const Tensor& clean) {
    const auto* wanted = data_.find(run_.at("name").get<std::string>() + "/clean");
    ASSERT_EQ(clean.defined(), wanted != nullptr);
    if (wanted) expect_close("clean", clean, *wanted);
  }

  Tensor input(const char* name) const { return data_.at(name).to(dtype_); }

  Json run_;
  const StateDict& data_;
  Dtype dtype_;
  std::unique_ptr<Scheduler> scheduler_;
  SchedulerStepOptions options_;
};

void check_runs(const std::string& stem, size_t least) {
  auto data = load_state_dict(kData + stem + ".safetensors");
  auto runs = Json::parse(std::ifstream(kData + stem + ".json"));
  ASSERT_GT(runs.size(), least);
  for (const auto& run : runs) {
    SCOPED_TRACE(run.at("name").get<std::string>());
    ReferenceRun(run, data).check();
  }
}

}  // namespace

TEST(SchedulerRuns, AreTheReferences) { check_runs("runs", 100); }

TEST(SchedulerRuns, OfSolversAreTheReferences) { check_runs("solver_runs", 280); }

TEST(SchedulerRuns, OfFlowMatchingAreTheReferences) { check_runs("flow_match_runs", 25); }

TEST(SchedulerRuns, AreTheSameFromAClonesOrAConfigsCopy) {
  auto x = at::randn({1, 4, 2, 2}, make_generator(1));
  auto run = [&](Scheduler& scheduler) {
    scheduler.set_timesteps(6);
    auto sample = x;
    SchedulerStepOptions options{.generators = {make_generator(2)}};
    for (int64_t i = 0; i < scheduler.timesteps().size(0); ++i) {
      auto t = scheduler.timesteps()[i];
      sample = scheduler.step(model(scheduler.scale_model_input(sample, t), t), t, sample, options).prev_sample;
    }
    return sample;
  };
  for (const auto& name : Scheduler::names()) {
    SCOPED_TRACE(name);
    auto scheduler = Scheduler::from_config(R"({"beta_schedule": "scaled_linear", "steps_offset": 1})", name);
    auto clone_before = scheduler->clone();
    auto sample = run(*scheduler);
    auto clone_after = scheduler->clone();
    EXPECT_EQ(clone_after->timesteps().numel(), 0);
    EXPECT_TRUE(at::equal(run(*clone_before), sample));
    EXPECT_TRUE(at::equal(run(*clone_after), sample));
    EXPECT_TRUE(at::equal(run(*Scheduler::from_config(scheduler->config())), sample));
    EXPECT_TRUE(at::equal(run(*scheduler), sample)) << "a second run";
  }
}

}  // namespace lora
