#include "io/mapped_file.h"

#include <sys/stat.h>

#include <thread>

#include "io/support.h"

namespace lora {

namespace {

StateDict sample() { return {{"w", at::arange(60, at::kFloat).reshape({6, 10})}, {"e", at::empty({0, 3})}}; }

}  // namespace

TEST(MappedFile, WritingToATensorLeavesTheFileAndThePristineCopy) {
  TemporaryFolder dir;
  save_safetensors(sample(), dir / "a.safetensors");
  auto before = read_bytes(dir / "a.safetensors");
  auto dict = load_state_dict(dir / "a.safetensors");
  Tensor weight = dict.at("w");
  Tensor original = pristine(weight);
  ASSERT_TRUE(original.defined());
  EXPECT_NE(original.const_data_ptr(), weight.const_data_ptr());
  weight.mul_(3);
  EXPECT_TRUE(same(weight, sample().at("w") * 3));
  EXPECT_TRUE(same(original, sample().at("w")));
  EXPECT_EQ(read_bytes(dir / "a.safetensors"), before);
  weight.copy_(pristine(weight));
  EXPECT_TRUE(same(weight, sample().at("w")));
}

TEST(MappedFile, PristineFollowsViews) {
  TemporaryFolder dir;
  save_safetensors(sample(), dir / "a.safetensors");
  Tensor weight = load_state_dict(dir / "a.safetensors").at("w"), wanted = sample().at("w");
  weight.zero_();
  for (auto view :
       {+[](const Tensor& t) { return t.slice(0, 2, 5); }, +[](const Tensor& t) { return t.t(); },
        +[](const Tensor& t) { return t.select(1, 9); }, +[](const Tensor& t) { return t.slice(1, 0, 10, 3); },
        +[](const Tensor& t) { return t.narrow(0, 6, 0); }, +[](const Tensor& t) { return t.view(at::kInt); },
        +[](const Tensor& t) {
          return t.slice(0, 5).unsqueeze(0).expand({4, 1, 10});
        }}) {
    Tensor original = pristine(view(weight));
    ASSERT_TRUE(original.defined());
    EXPECT_TRUE(same(original, view(wanted)));
    EXPECT_EQ(original.strides(), view(weight).strides());
  }
}

TEST(MappedFile, PristineOfAnythingElseIsUndefined) {
  TemporaryFolder dir;
  save_safetensors(sample(), dir / "a.safetensors");
  Tensor weight = load_state_dict(dir / "a.safetensors").at("w");
  EXPECT_FALSE(pristine(Tensor()).defined());
  EXPECT_FALSE(pristine(at::zeros(3)).defined());
  EXPECT_FALSE(pristine(weight.clone()).defined());
  EXPECT_FALSE(pristine(weight + 1).defined());
  EXPECT_FALSE(pristine(pristine(weight)).defined());
}

TEST(MappedFile, PristineKeepsTheMappingAlive) {
  TemporaryFolder dir;
  save_safetensors(sample(), dir / "a.safetensors");
  Tensor original = pristine(load_state_dict(dir / "a.safetensors").at("w"));
  EXPECT_TRUE(same(original, sample().at("w")));
}

TEST(MappedFile, TensorsSurviveTheirFileBeingReplaced) {
  TemporaryFolder dir;
  save_safetensors(sample(), dir / "a.safetensors");
  auto old = load_state_dict(dir / "a.safetensors");
  save_safetensors({{"w", old.at("w") + 1}}, dir / "a.safetensors");
  EXPECT_TRUE(same(old.at("w"), sample().at("w")));
  EXPECT_TRUE(same(pristine(old.at("w")), sample().at("w")));
  EXPECT_TRUE(same(load_state_dict(dir / "a.safetensors").at("w"), sample().at("w") + 1));
}

TEST(MappedFile, EmptyTensorsAndFiles) {
  TemporaryFolder dir;
  save_safetensors(sample(), dir / "a.safetensors");
  Tensor empty = load_state_dict(dir / "a.safetensors").at("e");
  EXPECT_EQ(empty.sizes(), (std::vector<int64_t>{0, 3}));
  EXPECT_TRUE(pristine(empty).defined());
  auto file = MappedFile::open(dir.write("empty", ""));
  EXPECT_EQ(file->size(), 0u);
  EXPECT_TRUE(file->bytes().empty());
}

TEST(MappedFile, LargeFilesOnlyCostWhatIsTouched) {
  TemporaryFolder dir;
  auto path = dir.write("sparse", "x");
  std::filesystem::resize_file(path, uint64_t{1} << 40);  // 1 TiB, of which nothing is on disk
  auto file = MappedFile::open(path);
  EXPECT_EQ(file->bytes()[0], 'x');
  EXPECT_EQ(file->bytes().back(), '\0');
}

TEST(MappedFile, NamesWhatCannotBeOpened) {
  TemporaryFolder dir;
  EXPECT_TRUE(fails(ErrorKind::not_found, "none: no such file", [&] { MappedFile::open(dir / "none"); }));
  EXPECT_TRUE(fails(ErrorKind::not_found, "no such file", [&] { MappedFile::open(dir.write("a", "x") / "b"); }));
  EXPECT_TRUE(fails(ErrorKind::bad_file, "is a folder", [&] { MappedFile::open(dir / ""); }));
  EXPECT_TRUE(fails(ErrorKind::bad_file, "is a device", [&] { MappedFile::open("/dev/null"); }));
  ASSERT_EQ(::mkfifo((dir / "pipe").c_str(), 0600), 0);
  EXPECT_TRUE(fails(ErrorKind::bad_file, "is a device or pipe", [&] { MappedFile::open(dir / "pipe"); }));
}

TEST(MappedFile, ManyThreadsMayLoadAndAskAtOnce) {
  TemporaryFolder dir;
  save_safetensors(sample(), dir / "a.safetensors");
  std::atomic<int> wrong = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&] {
      for (int round = 0; round < 200; ++round) {
        Tensor weight = load_state_dict(dir / "a.safetensors").at("w");
        wrong += !pristine(weight).defined() || pristine(at::zeros(1)).defined();
      }
    });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

TEST(MappedFile, ManyFilesStayOpenAtOnce) {
  TemporaryFolder dir;
  save_safetensors(sample(), dir / "a.safetensors");
  std::vector<Tensor> tensors;  // more than a process may have file descriptors
  for (int i = 0; i < 2000; ++i) tensors.push_back(load_state_dict(dir / "a.safetensors").at("w"));
  EXPECT_TRUE(same(pristine(tensors.front()), tensors.back()));
}

}  // namespace lora
