#include "io/safetensors.h"

#include <chrono>

#include "io/dtype.h"
#include "io/support.h"

namespace lora {

namespace {

// As ramp() of tools/reference/make_io.py.
Tensor ramp(at::IntArrayRef shape, Dtype dtype) {
  Tensor values = at::arange(c10::multiply_integers(shape), at::kFloat);
  return (dtype == at::kBool ? values.remainder(2) : values).to(dtype).reshape(shape);
}

StateDict all_dtypes() {
  constexpr Dtype kDtypes[] = {at::kBool,
                               at::kByte,
                               at::kChar,
                               at::kFloat8_e5m2,
                               at::kFloat8_e4m3fn,
                               at::kFloat8_e8m0fnu,
                               at::kFloat8_e4m3fnuz,
                               at::kFloat8_e5m2fnuz,
                               at::kShort,
                               at::kUInt16,
                               at::kHalf,
                               at::kBFloat16,
                               at::kInt,
                               at::kUInt32,
                               at::kFloat,
                               at::kComplexFloat,
                               at::kDouble,
                               at::kLong,
                               at::kUInt64};
  StateDict tensors;
  int i = 0;
  for (Dtype dtype : kDtypes) tensors.set(fmt::format("{:02}.{}", 7 * i++ % 19, to_string(dtype)), ramp({2, 3}, dtype));
  tensors.metadata["format"] = "pt";
  return tensors;
}

std::string saved(const StateDict& tensors) {
  TemporaryFolder dir;
  save_safetensors(tensors, dir / "a.safetensors");
  return read_bytes(dir / "a.safetensors");
}

}  // namespace

TEST(Safetensors, EveryDtypeReadsAndWritesAsTheReference) {
  auto wanted = all_dtypes();
  auto got = load_state_dict(data("dtypes.safetensors"));
  expect_same(got, wanted);
  EXPECT_EQ(got.metadata, wanted.metadata);
  EXPECT_EQ(saved(wanted), read_bytes(data("dtypes.safetensors")));
}

TEST(Safetensors, TensorsComeInTheOrderOfTheirData) {
  auto tensors = load_state_dict(data("dtypes.safetensors"));
  EXPECT_EQ(tensors.begin()->first, "12.uint64");
  EXPECT_EQ((tensors.end() - 1)->first, "00.bool");
}

TEST(Safetensors, ShapesReadAndWriteAsTheReference) {
  StateDict wanted{{"scalar", at::scalar_tensor(0.5, at::kFloat)},
                   {"empty", at::empty({0, 4})},
                   {"empty_half", at::empty({3, 0}, at::kHalf)},
                   {"odd", ramp({3}, at::kByte)},
                   {"half", ramp({5}, at::kHalf)},
                   {"matrix", ramp({2, 2}, at::kFloat)}};
  expect_same(load_state_dict(data("shapes.safetensors")), wanted);
  EXPECT_EQ(saved(wanted), read_bytes(data("shapes.safetensors")));
}

TEST(Safetensors, NamesReadAndWriteAsTheReference) {
  StateDict wanted;
  for (auto name : {"a\"b", "a\\b", "a\tb\n", "\x01", "\x7f", "ü", "z/ñ.日本"}) wanted.set(name, at::zeros(1));
  wanted.metadata["title"] = "naïve \"quoted\" \\ text\r\n\x1f";
  auto got = load_state_dict(data("names.safetensors"));
  expect_same(got, wanted);
  EXPECT_EQ(got.metadata, wanted.metadata);
  EXPECT_EQ(saved(wanted), read_bytes(data("names.safetensors")));
}

TEST(Safetensors, AFileWithoutTensorsIsAFile) {
  EXPECT_TRUE(load_state_dict(data("empty.safetensors")).empty());
  EXPECT_EQ(saved({}), read_bytes(data("empty.safetensors")));
}

TEST(Safetensors, MetadataIsWrittenInOrder) {
  StateDict tensors;
  tensors.metadata = {{"b", "2"}, {"a", "1"}};
  EXPECT_EQ(saved(tensors).substr(8), R"({"__metadata__":{"a":"1","b":"2"}}      )");
}

TEST(Safetensors, TransposedAndStridedTensorsAreWrittenDense) {
  Tensor base = ramp({4, 6}, at::kFloat);
  StateDict tensors{{"t", base.t()}, {"s", base.slice(1, 0, 6, 2)}, {"x", base.select(0, 1).expand({3, 6})}};
  StateDict dense{{"t", base.t().contiguous()},
                  {"s", base.slice(1, 0, 6, 2).contiguous()},
                  {"x", base.select(0, 1).repeat({3, 1})}};
  EXPECT_EQ(saved(tensors), saved(dense));
}

TEST(Safetensors, AlignedTensorsAreNotCopied) {
  auto dict = load_state_dict(data("dtypes.safetensors"));
  for (const auto& [name, tensor] : dict) EXPECT_TRUE(pristine(tensor).defined()) << name;
}

TEST(Safetensors, MisalignedTensorsAreCopied) {
  TemporaryFolder dir;
  std::string header =
      R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"F32","shape":[1],"data_offsets":[1,5]}})";
  uint64_t length = header.size();
  std::string bytes(reinterpret_cast<char*>(&length), 8);
  float value = 1.5f;
  bytes += header + "\7" + std::string(reinterpret_cast<char*>(&value), 4);
  auto dict = load_state_dict(dir.write("a", bytes));
  EXPECT_EQ(dict.at("a").item<int>(), 7);
  EXPECT_EQ(dict.at("b").item<float>(), 1.5f);
  EXPECT_FALSE(pristine(dict.at("b")).defined());
}

TEST(Safetensors, RefusesToWriteWhatTheFormatCannotHold) {
  EXPECT_TRUE(fails(ErrorKind::usage, "\"x\" is undefined", [] { saved({{"x", Tensor()}}); }));
  EXPECT_TRUE(fails(ErrorKind::usage, "__metadata__", [] { saved({{"__metadata__", at::zeros(1)}}); }));
  EXPECT_TRUE(fails(ErrorKind::usage, "not UTF-8", [] { saved({{"a\xff", at::zeros(1)}}); }));
  EXPECT_TRUE(fails(ErrorKind::unsupported, "\"x\" has dtype ComplexDouble", [] {
    saved({{"x", at::zeros(1, at::kComplexDouble)}});
  }));
  EXPECT_TRUE(fails(ErrorKind::unsupported, "\"x\" is sparse", [] { saved({{"x", at::zeros({2, 2}).to_sparse()}}); }));
}

// The largest headers of models and adapters must parse in a short time. They take about two milliseconds. The limit is
// twenty, for slow machines and sanitizers.
TEST(Safetensors, AHeaderOfThousandsParsesInMilliseconds) {
  TemporaryFolder dir;
  StateDict tensors;
  for (int i = 0; i < 2400; ++i)
    tensors.set(fmt::format("lora_unet_down_blocks_{}_attentions_{}_transformer_blocks_0_attn1_to_q.lora_down.weight",
                            i / 10, i % 10),
                at::zeros({4, 8}, at::kHalf));
  save_safetensors(tensors, dir / "a.safetensors");
  double best = 1e9;
  for (int round = 0; round < 5; ++round) {
    auto start = std::chrono::steady_clock::now();
    auto loaded = load_state_dict(dir / "a.safetensors");
    best = std::min(best, std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
    EXPECT_EQ(loaded.size(), 2400u);
  }
  RecordProperty("milliseconds", std::to_string(best));
  EXPECT_LT(best, 20);
}

}  // namespace lora
