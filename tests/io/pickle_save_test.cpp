#include <caffe2/serialize/inline_container.h>
#include <torch/csrc/jit/serialization/import_read.h>

#include "io/support.h"

namespace lora {

namespace {

StateDict sample() {
  StateDict tensors;
  for (Dtype dtype : {at::kFloat, at::kHalf, at::kBFloat16, at::kDouble, at::kLong, at::kInt, at::kShort, at::kChar,
                      at::kByte, at::kBool, at::kComplexFloat})
    tensors.set(to_string(dtype), at::arange(6, at::kFloat).to(dtype).reshape({2, 3}));
  tensors.set("scalar", at::scalar_tensor(2.5));
  tensors.set("empty", at::empty({0, 3}));
  tensors.set("transposed", at::arange(6, at::kFloat).reshape({2, 3}).t());
  tensors.set("name \"with\" ü", at::zeros({300, 1}));
  return tensors;
}

}  // namespace

TEST(SavePickle, OurReaderGetsBackWhatWasSaved) {
  TemporaryFolder dir;
  save_pickle(sample(), dir / "a.bin");
  auto loaded = load_state_dict(dir / "a.bin");
  expect_same(loaded, sample());
  for (const auto& [name, tensor] : loaded) EXPECT_TRUE(pristine(tensor).defined()) << name;
  EXPECT_EQ(dir.names().size(), 1u);
}

// libtorch's own reader, which torch::pickle_load uses.
TEST(SavePickle, LibtorchReadsIt) {
  TemporaryFolder dir;
  auto wanted = sample();
  save_pickle(wanted, dir / "a.bin");
  caffe2::serialize::PyTorchStreamReader archive((dir / "a.bin").string());
  auto value = torch::jit::readArchiveAndTensors("data", "", "", std::nullopt, std::nullopt, std::nullopt, archive);
  auto dict = value.toGenericDict();
  EXPECT_EQ(dict.size(), wanted.size());
  for (const auto& [name, tensor] : wanted) EXPECT_TRUE(same(dict.at(name).toTensor(), tensor)) << name;
}

TEST(SavePickle, RefusesWhatItCannotHold) {
  TemporaryFolder dir;
  auto save = [&](const Tensor& tensor) { save_pickle({{"x", tensor}}, dir / "a.bin"); };
  EXPECT_TRUE(fails(ErrorKind::usage, "\"x\" is undefined", [&] { save(Tensor()); }));
  EXPECT_TRUE(fails(ErrorKind::unsupported, "\"x\" is sparse", [&] { save(at::zeros({2, 2}).to_sparse()); }));
  EXPECT_TRUE(fails(ErrorKind::unsupported, "\"x\" has dtype float8_e4m3fn",
                    [&] { save(at::zeros(1).to(at::kFloat8_e4m3fn)); }));
  EXPECT_TRUE(dir.names().empty());
}

TEST(SavePickle, MayOverwriteTheFileItsTensorsAreMappedFrom) {
  TemporaryFolder dir;
  save_pickle(sample(), dir / "a.bin");
  save_pickle(load_state_dict(dir / "a.bin"), dir / "a.bin");
  expect_same(load_state_dict(dir / "a.bin"), sample());
}

}  // namespace lora
