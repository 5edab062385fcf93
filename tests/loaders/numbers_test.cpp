// Numbers of a file that are not its factors, with every value that they should not have, for every kind of layer.
#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include "loaders/tiny_pipeline.h"

namespace lora {

namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN(), kInfinity = std::numeric_limits<double>::infinity();
constexpr int64_t kSize = 20;  // inputs and outputs of the layers
const std::string kBlock = "mid_block.attentions.0.transformer_blocks.0.attn1.";
const std::string kLayer = "unet." + kBlock + "to_q", kOther = "unet." + kBlock + "to_k";

Tensor noise(std::vector<int64_t> shape) { return at::randn(shape) * 0.1; }

struct KindRow {
  const char* name;
  StateDict (*tensors)();
  bool alpha, scale;   // whether they count
  bool linear = true;  // whether a strength only multiplies
  bool oft = false;    // whether alpha is a limit
};

const std::vector<KindRow>& kind_rows() {
  static const std::vector<KindRow> rows = {
      {"lora",
       [] {
         return StateDict{{"lora_A.weight", noise({2, kSize})}, {"lora_B.weight", noise({kSize, 2})}};
       },
       true, true},
      {"dora",
       [] {
         return StateDict{{"lora_A.weight", noise({2, kSize})},
                          {"lora_B.weight", noise({kSize, 2})},
                          {"dora_scale", at::rand({kSize, 1}) + 1}};
       },
       true, true, false},
      {"loha",
       [] {
         return StateDict{{"hada_w1_a", noise({kSize, 2})},
                          {"hada_w1_b", noise({2, kSize})},
                          {"hada_w2_a", noise({kSize, 2})},
                          {"hada_w2_b", noise({2, kSize})}};
       },
       true, true},
      {"lokr",
       [] {
         return StateDict{{"lokr_w1", noise({2, 2})}, {"lokr_w2_a", noise({10, 2})}, {"lokr_w2_b", noise({2, 10})}};
       },
       true, true},
      {"whole_lokr",
       [] {
         return StateDict{{"lokr_w1", noise({2, 2})}, {"lokr_w2", noise({10, 10})}};
       },
       false, true},
      {"glora",
       [] {
         return StateDict{{"a1.weight", noise({kSize, 2})},
                          {"a2.weight", noise({2, kSize})},
                          {"b1.weight", noise({kSize, 2})},
                          {"b2.weight", noise({2, kSize})}};
       },
       true, true},
      {"ia3",
       [] {
         return StateDict{{"weight", noise({kSize})}, {"on_input", at::scalar_tensor(false)}};
       },
       false, false},
      {"diff",
       [] {
         return StateDict{{"diff", noise({kSize, kSize})}};
       },
       false, false},
      {"oft",
       [] {
         return StateDict{{"oft_blocks", noise({10, 2, 2})}};
       },
       true, false, false, true},
      {"oft_v2",
       [] {
         return StateDict{{"oft_R.weight", noise({10, 1})}};
       },
       false, false},
  };
  return rows;
}

// A file with the layer, and one sound layer beside it.
StateDict file_with(const StateDict& tensors) {
  StateDict file{{kOther + ".lora_A.weight", at::ones({1, kSize})}, {kOther + ".lora_B.weight", at::ones({kSize, 1})}};
  for (const auto& [suffix, tensor] : tensors) file.set(kLayer + "." + suffix, tensor);
  return file;
}

Tensor number(double value) { return at::scalar_tensor(value, at::kDouble); }

struct Loaded {
  LoadReport report;
  Tensor change;  // of the layer's weight
};

class Numbers : public testing::TestWithParam<KindRow> {
 protected:
  void SetUp() override {
    at::manual_seed(1);
    tensors_ = GetParam().tensors();
  }

  // With another number beside the layer's tensors.
  StateDict with(const std::string& suffix, const Tensor& tensor) const {
    auto all = tensors_;
    all.set(suffix, tensor);
    return file_with(all);
  }

  static Tensor weight(const TinyPipeline& pipe) {
    return pipe.unet.state_dict().at(kLayer.substr(5) + ".weight").to(at::kDouble).clone();
  }

  static Loaded loaded(const StateDict& file) {
    static TinyPipeline pipe;
    auto before = weight(pipe);
    Loaded result{.report = pipe.load_lora_weights(file)};
    pipe.fuse_lora();
    result.change = weight(pipe) - before;
    pipe.unfuse_lora();
    pipe.unload_lora_weights();
    return result;
  }

  bool counts(const std::string& name) const { return name == "alpha" ? GetParam().alpha : GetParam().scale; }

  StateDict tensors_;
};

}  // namespace

TEST_P(Numbers, ThatAreNotFiniteTakeTheLayerOutIfTheyCount) {
  auto alone = loaded(file_with(tensors_));
  for (std::string name : {"alpha", "scale"})
    for (double bad : {kNan, kInfinity, -kInfinity, 1e300}) {
      SCOPED_TRACE(name + " " + std::to_string(bad));
      auto got = loaded(with(name, number(bad)));
      bool skipped = counts(name);
      EXPECT_EQ(got.report.matched_layers(), skipped ? 1u : 2u);
      EXPECT_THAT(got.report.text(), skipped ? AllOf(HasSubstr("NaN or infinity"), HasSubstr("to_q"))
                                             : testing::Matcher<std::string>(Not(HasSubstr("NaN"))));
      EXPECT_TRUE(at::equal(got.change, skipped ? at::zeros_like(alone.change) : alone.change));
    }
}

TEST_P(Numbers, OfZeroAndBelowActAsTheySayWithANote) {
  auto alone = loaded(file_with(tensors_));
  for (std::string name : {"alpha", "scale"}) {
    SCOPED_TRACE(name);
    auto plus = loaded(with(name, number(1))), minus = loaded(with(name, number(-1))),
         zero = loaded(with(name, number(0)));
    if (!counts(name) || GetParam().oft) {  // a limit of 0 or below is none
      for (const auto* each : {&minus, &zero}) EXPECT_TRUE(at::equal(each->change, alone.change));
      continue;
    }
    EXPECT_THAT(minus.report.text(), HasSubstr("a negative alpha or scale"));
    EXPECT_THAT(zero.report.text(), HasSubstr("an alpha or a scale of 0 and do"));
    EXPECT_GT(plus.change.abs().max().item<double>(), 1e-5);
    if (!GetParam().linear) continue;
    expect_close(minus.change, -plus.change, 1e-3);
    EXPECT_EQ(zero.change.abs().max().item<double>(), 0);
  }
}

TEST_P(Numbers, OfTheWrongTypeOrNumberAreErrorsThatNameThem) {
  for (std::string name : {"alpha", "scale"})
    for (const auto& [bad, kind] : {std::pair{at::ones({}, at::kBool), ErrorKind::bad_file},
                                    {at::ones({}, at::kComplexFloat), ErrorKind::bad_file}}) {
      auto message = error_of(kind, [&] { loaded(with(name, bad)); });
      EXPECT_THAT(message, AllOf(HasSubstr("state dict: "), HasSubstr(kLayer + "." + name)));
    }
  for (const auto& bad : {at::ones({2}), at::zeros({0})})
    EXPECT_THAT(error_of(ErrorKind::bad_shape, [&] { loaded(with("alpha", bad)); }),
                AllOf(HasSubstr("state dict: "), HasSubstr(kLayer + ".alpha"), HasSubstr("one number")));
  // Several numbers are no strength, but something that belongs to the layer and is not understood.
  EXPECT_THAT(error_of(ErrorKind::bad_key, [&] { loaded(with("scale", at::ones({2}))); }),
              HasSubstr("a scale of 2 numbers"));
}

TEST_P(Numbers, OfTensorsThatAreNotFloatingPointAreRefusedAsQuantized) {
  for (const auto& [suffix, tensor] : tensors_) {
    if (suffix == "on_input") continue;
    for (auto dtype : {at::kChar, at::kByte, at::kLong, at::kBool}) {
      auto all = tensors_;
      all.set(suffix, tensor.to(dtype));
      auto file = file_with(all);
      file.set(kLayer + "." + suffix + "_scale", at::ones({1}));
      EXPECT_THAT(error_of(ErrorKind::unsupported, [&] { loaded(file); }),
                  AllOf(HasSubstr(kLayer + "." + suffix), HasSubstr(to_string(dtype)), HasSubstr("quantized"),
                        HasSubstr(suffix + "_scale")));
    }
  }
}

TEST_P(Numbers, OfTensorsThatAreNotFiniteTakeTheLayerOut) {
  for (const auto& [suffix, tensor] : tensors_) {
    if (suffix == "on_input") continue;
    for (double bad : {kNan, kInfinity}) {
      SCOPED_TRACE(suffix);
      auto all = tensors_;
      auto broken = tensor.clone();
      broken.flatten()[1] = bad;
      all.set(suffix, broken);
      auto got = loaded(file_with(all));
      EXPECT_EQ(got.report.matched_layers(), 1u);
      EXPECT_THAT(got.report.text(), HasSubstr("NaN or infinity"));
      StateDict alone;
      for (const auto& [name, t] : all) alone.set(kLayer + "." + name, t);
      EXPECT_THAT(error_of(ErrorKind::bad_file, [&] { loaded(alone); }), HasSubstr("no sound layer is left"));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, Numbers, testing::ValuesIn(kind_rows()),
                         [](const auto& test) { return test.param.name; });

// Magnitudes and rescales act as they say: 0 makes a row 0, and a negative one turns it around.
TEST(Magnitudes, ActAsTheySay) {
  at::manual_seed(2);
  TinyPipeline pipe;
  auto weight = [&] { return pipe.unet.state_dict().at(kLayer.substr(5) + ".weight").to(at::kDouble).clone(); };
  auto fused = [&](const StateDict& tensors) {
    pipe.load_lora_weights(file_with(tensors));
    pipe.fuse_lora();
    auto now = weight();
    pipe.unfuse_lora();
    pipe.unload_lora_weights();
    return now;
  };
  StateDict factors{{"lora_A.weight", noise({2, kSize})}, {"lora_B.weight", noise({kSize, 2})}};
  for (const auto& [suffix, shape] : {std::pair{"dora_scale", std::vector<int64_t>{kSize, 1}},
                                      {"lora_magnitude_vector", {kSize}},
                                      {"rescale", {kSize, 1}}}) {
    SCOPED_TRACE(suffix);
    auto tensors = std::string(suffix) == "rescale" ? StateDict{{"oft_blocks", noise({10, 2, 2})}} : factors;
    auto with = [&](const Tensor& m) {
      auto all = tensors;
      all.set(suffix, m);
      return fused(all);
    };
    auto ones = at::ones(shape);
    auto wanted = with(ones);
    EXPECT_LE(with(ones * 0).abs().max().item<double>(), 1e-6);
    expect_close(with(-ones), -wanted, 1e-5);
    error_of(ErrorKind::bad_shape, [&] { with(at::ones({3})); });
  }
}

}  // namespace lora
