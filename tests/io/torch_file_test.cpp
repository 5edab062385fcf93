#include "io/torch_file.h"

#include "io/pickles.h"
#include "io/support.h"

namespace lora {

class TorchFile : public testing::TestWithParam<const char*> {};

TEST_P(TorchFile, ReadsAsTheReference) {
  std::string name = GetParam();
  expect_same(load_state_dict(data(name + ".pt")), load_state_dict(data(name + ".expected.safetensors")));
}

INSTANTIATE_TEST_SUITE_P(Reference, TorchFile,
                         testing::Values("plain", "plain_legacy", "protocol4", "protocol5_legacy", "new_dtypes",
                                         "views", "views_legacy", "ordered", "ordered_legacy", "parameters",
                                         "lightning", "lightning_legacy", "nested", "list"),
                         [](const auto& test) { return std::string(test.param); });

TEST(TorchFile, UncompressedRecordsAliasThePrivateMapping) {
  auto before = read_bytes(data("plain.pt"));
  auto dict = load_state_dict(data("plain.pt"));
  for (const auto& [name, tensor] : dict) {
    EXPECT_TRUE(pristine(tensor).defined()) << name;
    tensor.zero_();
    EXPECT_EQ(bool(same(pristine(tensor), tensor)), tensor.numel() == 0) << name;
  }
  EXPECT_EQ(read_bytes(data("plain.pt")), before);
}

TEST(TorchFile, ViewsOfOneStorageStayViewsOfOneStorage) {
  for (auto name : {"views.pt", "views_legacy.pt"}) {
    auto dict = load_state_dict(data(name));
    Tensor base = dict.at("base"), rows = dict.at("rows");
    EXPECT_TRUE(rows.is_alias_of(base));
    base.add_(1);
    EXPECT_TRUE(same(rows, base.slice(0, 1, 3)));
    EXPECT_TRUE(same(dict.at("transposed"), base.t()));
    EXPECT_EQ(dict.at("expanded").stride(0), 0);
  }
}

TEST(TorchFile, KeepsTheOrderOfTheDict) {
  auto dict = load_state_dict(data("plain.pt"));
  EXPECT_EQ(dict.begin()->first, "float");
  EXPECT_EQ((dict.end() - 1)->first, "empty");
}

TEST(TorchFile, TextBecomesMetadata) {
  EXPECT_EQ(load_state_dict(data("nested.pt")).metadata, (std::map<std::string, std::string>{{"info.name", "pixel"}}));
  EXPECT_EQ(load_state_dict(data("lightning.pt")).metadata,
            (std::map<std::string, std::string>{{"pytorch-lightning_version", "1.4.2"}}));
}

// A trainer's own names around the tensors, and its numbers beside them.
TEST(TorchFile, TheOneDictWithTensorsIsTheFile) {
  TemporaryFolder dir;
  auto inner = dict(text("w") + small_tensor());
  auto load = [&](const std::string& items) { return load_state_dict(dir.write("f.pt", legacy(pickle(dict(items))))); };
  auto keys = [](const StateDict& file) {
    std::vector<std::string> names;
    for (const auto& [key, tensor] : file) names.push_back(key);
    return names;
  };
  using Names = std::vector<std::string>;
  auto beside = load(text("lora_weights") + inner + text("step") + integer(7) + text("name") + text("ink"));
  EXPECT_EQ(keys(beside), (Names{"lora_weights.w"}));
  EXPECT_EQ(beside.metadata, (std::map<std::string, std::string>{{"name", "ink"}}));
  EXPECT_EQ(keys(load(text("a") + inner + text("b") + inner + text("step") + integer(7))),
            (Names{"a.w", "b.w", "step"}));
  EXPECT_EQ(keys(load(text("w") + small_tensor() + text("alpha") + integer(7))), (Names{"w", "alpha"}));
}

TEST(TorchFile, AFileWithoutTensorsIsAnError) {
  EXPECT_TRUE(
      fails(ErrorKind::bad_file, "no_tensors.pt: holds no tensors", [] { load_state_dict(data("no_tensors.pt")); }));
}

TEST(TorchFile, EveryTruncationIsRefused) {
  TemporaryFolder dir;
  for (auto name : {"plain.pt", "plain_legacy.pt", "lightning.pt", "views_legacy.pt"}) {
    auto bytes = read_bytes(data(name));
    for (size_t tenth = 0; tenth < 10; ++tenth) {
      auto file = dir.write("cut", bytes.substr(0, bytes.size() * tenth / 10));
      EXPECT_TRUE(fails(ErrorKind::bad_file, "cut: ", [&] { load_state_dict(file); })) << name << " at " << tenth;
    }
  }
}

}  // namespace lora
