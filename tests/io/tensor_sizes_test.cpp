#include "io/tensor_sizes.h"

#include <gtest/gtest.h>

#include "support/compare.h"

namespace lora {

namespace {

std::vector<std::filesystem::path> tensor_files() {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(test_data() / "io"))
    if (auto end = entry.path().extension(); end == ".safetensors" || end == ".pt") files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace

// Pickles of both layouts, and safetensors.
TEST(TensorSizes, AreThoseOfTheTensors) {
  size_t compared = 0;
  for (const auto& file : tensor_files()) {
    StateDict whole;
    try {
      whole = load_state_dict(file);
    } catch (const Error& error) {
      error_of(error.kind(), [&] { load_tensor_sizes(file); });
      continue;
    }
    auto sizes = load_tensor_sizes(file);
    EXPECT_EQ(sizes.metadata, whole.metadata) << file;
    ASSERT_EQ(sizes.size(), whole.size()) << file;
    for (auto a = sizes.begin(), b = whole.begin(); a != sizes.end(); ++a, ++b) {
      EXPECT_EQ(a->first, b->first) << file;
      EXPECT_EQ(a->second.sizes(), b->second.sizes()) << a->first;
      EXPECT_EQ(a->second.scalar_type(), b->second.scalar_type()) << a->first;
      // Only a number in the pickle itself is there.
      EXPECT_TRUE(a->second.is_meta() || a->second.dim() == 0) << a->first;
      ++compared;
    }
  }
  EXPECT_GT(compared, 50u);
}

TEST(TensorSizes, AreReadWithoutTheData) {
  TemporaryFolder folder;
  // A header of 1 TiB of numbers. The file has no block for any of them.
  const std::string header = R"({"a":{"dtype":"F32","shape":[524288,524288],"data_offsets":[0,1099511627776]}})";
  const uint64_t length = header.size();
  auto file = folder.write("a.safetensors", std::string(reinterpret_cast<const char*>(&length), 8) + header);
  std::error_code unable;
  std::filesystem::resize_file(file, 8 + header.size() + 1099511627776, unable);
  if (unable) GTEST_SKIP() << "no file of 1 TiB can be made here";
  auto sizes = load_tensor_sizes(file);
  EXPECT_EQ(sizes.at("a").sizes(), (std::vector<int64_t>{524288, 524288}));
  EXPECT_TRUE(sizes.at("a").is_meta());
}

TEST(TensorSizes, OfAnIndexAreNoTensorFiles) {
  auto said = error_of(ErrorKind::bad_file, [] { load_tensor_sizes(test_data() / "io/model.safetensors.index.json"); });
  EXPECT_NE(said.find("is JSON"), said.npos) << said;
}

}  // namespace lora
