// Runs of tests/data/schedulers/amused.json again, beside what the reference made of them (see
// tools/reference/make_schedulers.py). Tokens are whole numbers: they are the same or they are not.
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "lora/error.h"
#include "lora/scheduler.h"
#include "lora/state_dict.h"
#include "nn/random.h"
#include "schedulers/errors.h"

namespace lora {

namespace {

using testing::AllOf;
using testing::HasSubstr;
using Json = nlohmann::json;

const std::string kData = LORA_SOURCE_DIR "/tests/data/schedulers/";
constexpr int64_t kMask = 40;

std::unique_ptr<Scheduler> make(Json fields = Json::object()) {
  fields["mask_token_id"] = kMask;
  return Scheduler::from_config(fields.dump(), "AmusedScheduler");
}

Tensor clean() { return at::arange(24).view({2, 3, 4}) % 12; }
Tensor masked() { return at::full({2, 3, 4}, kMask, at::kLong); }

// A model that looks at what it is given and at the time, exactly alike in any language.
Tensor model(const Tensor& logits, const Tensor& tokens, const Tensor& t) {
  return logits.roll(t.item<int64_t>(), 1) * (1 + tokens % 3).unsqueeze(1);
}

Tensor first_tokens(const Json& run) {
  auto known = run.value("known", Json::array());
  if (known == "all") return clean();
  auto tokens = masked();
  for (const auto& place : known) tokens[place[0]][place[1]][place[2]] = clean()[place[0]][place[1]][place[2]];
  return tokens;
}

SetTimestepsOptions options_of(const Json& run) {
  if (!run.contains("temperature")) return {};
  const auto& temperature = run["temperature"];
  if (temperature.is_array()) return {.temperature = std::pair<double, double>(temperature[0], temperature[1])};
  return {.temperature = std::pair(temperature.get<double>(), 0.01)};
}

}  // namespace

TEST(AmusedScheduler, RunsAreTheReferences) {
  auto data = load_state_dict(kData + "amused.safetensors");
  auto runs = Json::parse(std::ifstream(kData + "amused.json"));
  ASSERT_GT(runs.size(), 5u);
  for (const auto& [name, run] : runs.items()) {
    SCOPED_TRACE(name);
    auto expected = [&, n = name](const std::string& what) { return data.at(n + "/" + what); };
    auto scheduler = make(run.value("given", Json::object()));
    scheduler->set_timesteps(run.at("steps"), options_of(run));
    auto timesteps = scheduler->timesteps();
    EXPECT_TRUE(at::equal(timesteps, expected("timesteps")));

    auto generator = make_generator(run.at("steps"));
    auto noise = at::rand({2, 3, 4}, generator);
    EXPECT_TRUE(at::equal(scheduler->add_noise(clean(), noise, timesteps[0]), expected("noised")));

    auto logits = data.at("logits").to(parse_dtype(run.value("dtype", "float32")));
    auto tokens = first_tokens(run);
    for (int64_t i = 0; i < timesteps.numel(); ++i) {
      auto t = timesteps[i];
      auto output = scheduler->step(model(logits, tokens, t), t, tokens, {.generators = {generator}});
      tokens = output.prev_sample;
      EXPECT_TRUE(at::equal(tokens, expected("samples")[i])) << "step " << i;
      EXPECT_TRUE(at::equal(output.pred_original_sample, expected("predicted")[i])) << "step " << i;
    }
  }
}

TEST(AmusedScheduler, EndsWithoutMasksAndKeepsWhatIsKnown) {
  auto logits = 2 * at::randn({2, 12, 3, 4}, make_generator(2));
  auto scheduler = make();
  scheduler->set_timesteps(4);
  auto tokens = masked();
  tokens[1][2][3] = 5;
  for (int64_t i = 0; i < 4; ++i) {
    auto t = scheduler->timesteps()[i];
    tokens = scheduler->step(logits, t, tokens).prev_sample;
    EXPECT_EQ(tokens[1][2][3].item<int64_t>(), 5);
    EXPECT_EQ((tokens == kMask).any().item<bool>(), i < 3);
  }
}

TEST(AmusedScheduler, MasksEachImageForItsOwnTimestep) {
  auto scheduler = make();
  scheduler->set_timesteps(10);
  auto noise = at::rand({2, 3, 4}, make_generator(3));
  auto both = scheduler->add_noise(clean(), noise, at::tensor({9, 2}));
  for (int64_t i : {0, 1}) {
    auto t = at::tensor(i == 0 ? 9 : 2);
    auto alone = scheduler->add_noise(clean().slice(0, i, i + 1), noise.slice(0, i, i + 1), t);
    EXPECT_TRUE(at::equal(both.slice(0, i, i + 1), alone));
  }
}

// The less was masked at the start, the less is masked after a step. Each image has its own share.
TEST(AmusedScheduler, MasksLessWhereLessWasMaskedAtTheStart) {
  auto logits = 2 * at::randn({2, 12, 3, 4}, make_generator(2));
  auto scheduler = make({{"masking_schedule", "linear"}});
  scheduler->set_timesteps(4);
  auto tokens = masked();
  tokens[1].slice(0, 1, 3).fill_(5);  // 4 of 12 are masked
  auto generators = [] { return std::vector{make_generator(1), make_generator(2)}; };
  auto t = scheduler->timesteps()[0];
  auto prev =
      scheduler->step(logits, t, tokens, {.generators = generators(), .starting_mask_ratio = {1, 1. / 3}}).prev_sample;
  EXPECT_EQ((prev[0] == kMask).sum().item<int64_t>(), 9);
  EXPECT_EQ((prev[1] == kMask).sum().item<int64_t>(), 3);
  auto both =
      scheduler->step(logits, t, tokens, {.generators = generators(), .starting_mask_ratio = {0.5}}).prev_sample;
  EXPECT_EQ((both[0] == kMask).sum().item<int64_t>(), 4);
  expect_error(ErrorKind::usage, HasSubstr("3 starting mask ratios for 2 images"), [&] {
    scheduler->step(logits, t, tokens, {.starting_mask_ratio = {1, 1, 1}});
  });
}

TEST(AmusedScheduler, AcceptsACopyOfItsConfig) {
  auto scheduler = make({{"masking_schedule", "linear"}});
  auto copy = Scheduler::from_config(scheduler->config());
  EXPECT_EQ(copy->config(), scheduler->config());
  EXPECT_EQ(scheduler->clone()->config(), scheduler->config());
  EXPECT_EQ(scheduler->clone()->timesteps().numel(), 0);
}

TEST(AmusedScheduler, NamesWhatDoesNotFit) {
  auto logits = at::zeros({2, 12, 3, 4});
  auto scheduler = make();
  auto t = at::tensor(int64_t{0});
  expect_error(ErrorKind::usage, HasSubstr("set_timesteps"), [&] { scheduler->step(logits, t, masked()); });
  expect_error(ErrorKind::usage, HasSubstr("set_timesteps"), [&] {
    scheduler->add_noise(clean(), at::rand({2, 3, 4}), t);
  });
  for (int steps : {0, 1001})
    expect_error(ErrorKind::usage, HasSubstr("1 to 1000"), [&] { scheduler->set_timesteps(steps); });
  expect_error(ErrorKind::usage, HasSubstr("does not take the option mu"),
               [&] { scheduler->set_timesteps(3, {.mu = 1.0}); });

  scheduler->set_timesteps(3);
  expect_error(ErrorKind::usage, HasSubstr("timestep 3 is out of range"),
               [&] { scheduler->step(logits, t + 3, masked()); });
  expect_error(ErrorKind::bad_shape, AllOf(HasSubstr("[2, 12, 3, 4]"), HasSubstr("[2, 4, 3]")),
               [&] { scheduler->step(logits, t, masked().transpose(1, 2)); });
  expect_error(ErrorKind::bad_shape, HasSubstr("[24]"), [&] { scheduler->step(logits, t, masked().flatten()); });
  expect_error(ErrorKind::usage, HasSubstr("int64"), [&] { scheduler->step(logits, t, masked().to(at::kFloat)); });
  expect_error(ErrorKind::usage, HasSubstr("3 generators for 2 images"), [&] {
    scheduler->step(logits, t, masked(), {.generators = {make_generator(1), make_generator(2), make_generator(3)}});
  });
  expect_error(ErrorKind::bad_shape, HasSubstr("shapes must be equal"), [&] {
    scheduler->add_noise(clean(), at::rand({2, 3}), t);
  });
}

}  // namespace lora
