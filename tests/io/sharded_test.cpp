#include "io/sharded.h"

#include "io/support.h"

namespace lora {

namespace {

const std::string kIndex = R"({"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}})";

testing::AssertionResult index_fails(ErrorKind kind, const std::string& part, const std::string& index) {
  TemporaryFolder dir;
  save_safetensors({{"a", at::zeros(1)}}, dir / "1.safetensors");
  auto file = dir.write("model.index.json", index);
  return fails(kind, part, [&] { load_state_dict(file); });
}

}  // namespace

TEST(Sharded, ReadsAsTheReference) {
  StateDict wanted{{"a.weight", at::arange(3, at::kHalf)},
                   {"b.weight", at::arange(4, at::kFloat).reshape({2, 2})},
                   {"c.weight", at::zeros(1, at::kLong)}};
  auto tensors = load_state_dict(data("model.safetensors.index.json"));
  expect_same(tensors, wanted);
  for (const auto& [name, tensor] : tensors) EXPECT_TRUE(pristine(tensor).defined()) << name;
  expect_same(load_state_dict(data("pytorch_model.bin.index.json")), wanted);
}

TEST(Sharded, NamesWhatIsMissing) {
  EXPECT_TRUE(index_fails(ErrorKind::not_found,
                          "model.index.json: lists the shard 2.safetensors, which is not beside it", kIndex));
  EXPECT_TRUE(index_fails(ErrorKind::bad_file, "tensor \"b\" should be in 1.safetensors, but is not there",
                          R"({"weight_map": {"a": "1.safetensors", "b": "1.safetensors"}})"));
  EXPECT_TRUE(index_fails(ErrorKind::bad_file, "is JSON without a weight_map", R"({"model_type": "clip"})"));
  EXPECT_TRUE(index_fails(ErrorKind::bad_file, "its weight_map is not an object", R"({"weight_map": []})"));
  EXPECT_TRUE(index_fails(ErrorKind::bad_file, "its weight_map is not an object", R"({"weight_map": {}})"));
  EXPECT_TRUE(index_fails(ErrorKind::bad_file, "no file name for tensor \"a\"", R"({"weight_map": {"a": 1}})"));
  EXPECT_TRUE(index_fails(ErrorKind::bad_file, "is not JSON", R"({"weight_map": )"));
}

TEST(Sharded, NeverLeavesTheFolderOfTheIndex) {
  for (auto name :
       {"../1.safetensors", "/etc/passwd", "a/1.safetensors", "..", ".", "", "a\\\\b", "1.safetensors\\u0000"})
    EXPECT_TRUE(index_fails(ErrorKind::bad_file, "wanted the name of a file beside the index",
                            fmt::format(R"({{"weight_map": {{"a": "{}"}}}})", name)))
        << name;
}

TEST(Sharded, AnIndexCannotNameAnIndex) {
  EXPECT_TRUE(index_fails(ErrorKind::bad_file, "is JSON; wanted one of the tensor files",
                          R"({"weight_map": {"a": "model.index.json"}})"));
}

TEST(Sharded, TheIndexDecidesBetweenTwoShards) {
  TemporaryFolder dir;
  save_safetensors({{"a", at::zeros(1)}, {"b", at::zeros(1)}, {"extra", at::zeros(1)}}, dir / "1.safetensors");
  save_safetensors({{"a", at::ones(1)}, {"b", at::ones(1)}}, dir / "2.safetensors");
  auto tensors = load_state_dict(dir.write("index.json", kIndex));
  EXPECT_EQ(tensors.at("a").item<float>(), 0);
  EXPECT_EQ(tensors.at("b").item<float>(), 1);
  EXPECT_TRUE(tensors.contains("extra"));
}

}  // namespace lora
