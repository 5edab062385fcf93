// Files written in a narrower dtype: what the dtype cannot hold is told, saved by rescaling, or refused. And what makes
// a file that is not the same LoRA: it is not written, and what stood there stays.
#include <gmock/gmock.h>

#include "files/change.h"
#include "io/json_file.h"
#include "lora/files.h"
#include "support/compare.h"
#include "support/folder.h"

namespace lora {

namespace {

using testing::AllOf;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

const std::string kPath = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k";
const std::string kKey = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k.";
const std::string kOther = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_v.";

StateDict factors(double up, double down, const std::string& key = kKey) {
  return {{key + "lora_down.weight", at::randn({4, 768}) * down},
          {key + "lora_up.weight", at::randn({16, 4}) * up},
          {key + "alpha", at::scalar_tensor(2.0)}};
}

StateDict with(StateDict file, const StateDict& more) {
  for (const auto& [key, tensor] : more) file.set(key, tensor);
  return file;
}

struct Written {
  LoraFile file;
  std::vector<std::string> notes;
};

Written written(const StateDict& source, Dtype dtype, const std::string& to = "kohya") {
  static TemporaryFolder folder(TemporaryFolder::in_memory());
  auto out = folder / ("out" + std::string(to == "peft" ? "" : ".safetensors"));
  std::filesystem::remove_all(out);
  auto done = convert_lora(source, out, {.to = to, .dtype = dtype});
  return {read_lora(out), done.notes};
}

std::string refused(const StateDict& source, Dtype dtype) {
  TemporaryFolder folder;
  auto message = error_of(ErrorKind::unsupported,
                          [&] { convert_lora(source, folder / "out.safetensors", {.to = "kohya", .dtype = dtype}); });
  EXPECT_THAT(folder.names(), IsEmpty());
  return message;
}

double apart(const LoraFile& a, const LoraFile& b) {
  double most = 0;
  for (size_t i = 0; i < a.layers.size(); ++i) {
    auto x = dense(change_of(a.layers[i])).to(at::kDouble), y = dense(change_of(b.layers.at(i))).to(at::kDouble);
    most = std::max(most, ((x - y).norm() / y.norm()).item<double>());
  }
  return most;
}

}  // namespace

struct Saved {
  const char* name;
  double up, down;
  Dtype dtype;
};

class Rescaled : public testing::TestWithParam<Saved> {};

// One factor leaves the range of the dtype, and the other has room.
TEST_P(Rescaled, FactorsKeepTheirProduct) {
  at::manual_seed(1);
  auto [name, up, down, dtype] = GetParam();
  auto source = factors(up, down);
  for (const auto* to : {"kohya", "diffusers", "peft"}) {
    auto [file, notes] = written(source, dtype, to);
    EXPECT_EQ(file.layers.at(0).tensors.at("lora_B.weight").scalar_type(), dtype);
    EXPECT_LT(apart(file, read_lora(source)), dtype == at::kBFloat16 ? 5e-3 : 1e-3);
    ASSERT_THAT(notes, testing::Not(IsEmpty()));
    EXPECT_THAT(notes[0], AllOf(HasSubstr(to_string(dtype)), HasSubstr("1 layer as they are"),
                                HasSubstr("powers of two"), HasSubstr(kPath)));
  }
}

INSTANTIATE_TEST_SUITE_P(Dtypes, Rescaled,
                         testing::Values(Saved{"half_small", 1e-9, 10, at::kHalf},
                                         Saved{"half_large", 1e6, 1e-3, at::kHalf},
                                         Saved{"bfloat_small", 1e-40, 1e6, at::kBFloat16}),
                         [](const auto& test) { return test.param.name; });

TEST(Narrowing, IsThePlainCastWhereNothingIsLost) {
  at::manual_seed(1);
  auto source = factors(0.01, 0.01);
  auto [file, notes] = written(source, at::kBFloat16);
  EXPECT_THAT(notes, IsEmpty());
  EXPECT_TRUE(
      at::equal(file.layers[0].tensors.at("lora_B.weight"), source.at(kKey + "lora_up.weight").to(at::kBFloat16)));
}

// A difference of the weight has nothing that it could be rescaled against.
TEST(Narrowing, TellsWhatItLost) {
  auto diff = at::full({16, 768}, 0.5);
  diff[0] = 1e-9;
  auto source = with(factors(0.01, 0.01, kOther), {{kKey + "diff", diff}});
  auto [file, notes] = written(source, at::kHalf);
  EXPECT_THAT(notes, ElementsAre("768 of 12288 numbers in 1 layer are so small that float16 makes them 0; a tensor "
                                 "loses at most 5.2e-08 % of its size: unet." +
                                 kPath + "; bfloat16 or float32 can hold them"));
  EXPECT_THAT(written(source, at::kBFloat16).notes, IsEmpty());
}

struct Dead {
  const char* name;
  StateDict (*make)();
  Dtype dtype;
  const char* why;
};

class Refused : public testing::TestWithParam<Dead> {};

TEST_P(Refused, LayersThatTheDtypeCannotHold) {
  at::manual_seed(1);
  const auto& [name, make, dtype, why] = GetParam();
  auto message = refused(with(factors(0.1, 0.1, kOther), make()), dtype);
  EXPECT_THAT(message, AllOf(HasSubstr(std::string(to_string(dtype)) + " cannot hold"), HasSubstr(why),
                             HasSubstr("unet." + kPath), HasSubstr("float32 can hold them")));
}

INSTANTIATE_TEST_SUITE_P(
    Dtypes, Refused,
    testing::Values(Dead{"both_small", [] { return factors(1e-9, 1e-9); }, at::kHalf, "1 layer"},
                    Dead{"both_large", [] { return factors(1e6, 1e6); }, at::kHalf, "too large"},
                    Dead{"difference",
                         [] {
                           return StateDict{{kKey + "diff", at::randn({16, 768}) * 1e-12}};
                         },
                         at::kHalf, "too small"},
                    Dead{"magnitude",
                         [] {
                           return with(factors(0.1, 0.1), {{kKey + "dora_scale", at::full({16, 1}, 1e5)}});
                         },
                         at::kHalf, "16 numbers of 1 layer, which are too large for it"},
                    Dead{"bias",
                         [] {
                           return with(factors(0.1, 0.1), {{kKey + "diff_b", at::full({16}, 1e6)}});
                         },
                         at::kHalf, "too large"},
                    Dead{"bfloat", [] { return factors(1e-44, 1e-44); }, at::kBFloat16, "too small"}),
    [](const auto& test) { return test.param.name; });

TEST(Narrowing, OfADtypeOfEightBitsIsTheSame) {
  at::manual_seed(1);
  auto source = factors(0.001, 10);
  auto [file, notes] = written(source, at::kFloat8_e4m3fn);
  EXPECT_THAT(notes, Contains(HasSubstr("powers of two")));
  EXPECT_LT(apart(file, read_lora(source)), 0.1);
  EXPECT_THAT(refused(factors(1e4, 1e4), at::kFloat8_e4m3fn), HasSubstr("too large"));
}

// ---- What stood there stays -----------------------------------------------------------------------------------------

TEST(Convert, AFailureLeavesTheOldOutputWhole) {
  TemporaryFolder folder;
  at::manual_seed(1);
  auto good = factors(0.1, 0.1), dead = factors(1e-9, 1e-9);
  for (const std::string to : {"kohya", "diffusers", "peft"}) {
    SCOPED_TRACE(to);
    auto out = folder / (to == "peft" ? "out" : "out.safetensors");
    convert_lora(good, out, {.to = to});
    error_of(ErrorKind::unsupported, [&] { convert_lora(dead, out, {.to = to, .dtype = at::kHalf}); });
    EXPECT_EQ(folder.names().size(), 1u);
    EXPECT_EQ(apart(read_lora(out), read_lora(good)), 0);
    std::filesystem::remove_all(out);
  }
}

TEST(Convert, WhatWasWrittenIsReadAgain) {
  TemporaryFolder folder;
  // A setting that only OneTrainer's metadata says, on a file without it: read again, the layer would turn otherwise.
  LoraLayer layer{.component = "unet", .path = kPath};
  layer.tensors = {{"oft_R.weight", at::randn({192, 6})}};
  layer.settings = {{"inverse_convolutions", 1}};
  LoraFile file{.layers = {layer}, .base_model = BaseModel::sd1, .source = "made"};
  auto message =
      error_of(ErrorKind::unsupported, [&] { convert_lora(file, folder / "a.safetensors", {.to = "kohya"}); });
  EXPECT_THAT(message, AllOf(HasSubstr("read again"), HasSubstr("unet." + kPath), HasSubstr("its settings differ")));
  file.metadata["ot_branch"] = "master";
  convert_lora(file, folder / "a.safetensors", {.to = "kohya"});

  // PEFT's own settings have no place in other formats.
  file.layers[0].settings = {{"use_cayley_neumann", 0}};
  message = error_of(ErrorKind::unsupported, [&] { convert_lora(file, folder / "b.safetensors", {.to = "comfy"}); });
  EXPECT_THAT(message, HasSubstr("use_cayley_neumann with 5 terms"));
  EXPECT_THAT(folder.names(), ElementsAre("a.safetensors"));
}

TEST(Convert, RefusesAStrengthThatFloat32DoesNotHave) {
  TemporaryFolder folder;
  auto file = read_lora(factors(0.1, 0.1));
  file.layers[0].alpha = 1e-300;
  auto message =
      error_of(ErrorKind::unsupported, [&] { convert_lora(file, folder / "a.safetensors", {.to = "kohya"}); });
  EXPECT_THAT(message, HasSubstr("float32 cannot hold its alpha"));
  EXPECT_THAT(folder.names(), IsEmpty());
}

TEST(Convert, RefusesAFileOfWhichNothingIsUnderstood) {
  TemporaryFolder folder;
  StateDict unknown{{kKey + "alpha", at::scalar_tensor(4.0)}, {kKey + "mystery_a", at::randn({4, 8})}};
  for (const std::string to : {"kohya", "comfy", "diffusers", "peft"})
    error_of(ErrorKind::unsupported, [&] { convert_lora(unknown, folder / "a", {.to = to}); });
  error_of(ErrorKind::bad_key, [&] { convert_lora(LoraFile{.source = "made"}, folder / "a", {.to = "kohya"}); });
  error_of(ErrorKind::unsupported, [&] { inspect_lora(unknown); });
  EXPECT_THAT(folder.names(), IsEmpty());
}

TEST(Convert, PeftsFolderDoesNotMixTwoFiles) {
  TemporaryFolder folder;
  at::manual_seed(1);
  auto both = with(factors(0.1, 0.1), factors(0.1, 0.1, "lora_te_text_model_encoder_layers_0_mlp_fc1."));
  convert_lora(both, folder / "p", {.to = "peft"});
  auto message = error_of(ErrorKind::conflict, [&] { convert_lora(factors(0.1, 0.1), folder / "p", {.to = "peft"}); });
  EXPECT_THAT(message, HasSubstr("it has an adapter for text_encoder"));
  EXPECT_EQ(apart(read_lora(folder / "p"), read_lora(both)), 0);
  convert_lora(both, folder / "p", {.to = "peft"});  // again, over itself
  EXPECT_EQ(read_lora(folder / "p").layers.size(), 2u);
}

TEST(Convert, TheOutputIsCheckedBeforeTheSourceIsRead) {
  TemporaryFolder folder;
  folder.write("file", "");
  auto refuses = [&](ErrorKind kind, const std::filesystem::path& out, const std::string& to, const std::string& part) {
    EXPECT_THAT(error_of(kind, [&] { convert_lora("nowhere.safetensors", out, {.to = to}); }), HasSubstr(part));
  };
  refuses(ErrorKind::io, folder / "none/a.safetensors", "kohya", "none/a.safetensors");
  refuses(ErrorKind::io, folder / "file/a.safetensors", "kohya", "a.safetensors");
  refuses(ErrorKind::io, folder / "file", "peft", "is a file");
  refuses(ErrorKind::usage, folder / "a.pt", "kohya", ".safetensors");
  refuses(ErrorKind::usage, folder / "a.CKPT", "diffusers", ".safetensors");
  refuses(ErrorKind::usage, folder / "a.safetensors", "peft", "name a folder");
  refuses(ErrorKind::usage, "", "kohya", "empty");
  EXPECT_THAT(folder.names(), ElementsAre("file"));
  auto done = convert_lora(factors(0.1, 0.1), folder / "style.v2", {.to = "kohya"});
  EXPECT_THAT(done.notes, ElementsAre(HasSubstr("does not end with .safetensors")));
}

}  // namespace lora
