#include "io/support.h"

namespace lora {

namespace {

testing::AssertionResult load_fails(ErrorKind kind, const std::string& part, const std::string& bytes) {
  TemporaryFolder dir;
  auto file = dir.write("model.safetensors", bytes);
  return fails(kind, "model.safetensors: " + part, [&] { load_state_dict(file); });
}

}  // namespace

TEST(LoadStateDict, TheExtensionDoesNotMatter) {
  TemporaryFolder dir;
  auto wanted = load_state_dict(data("plain.expected.safetensors"));
  for (auto name : {"plain.pt", "plain_legacy.pt", "plain.expected.safetensors"})
    for (auto alias : {"a.safetensors", "a.pt", "a.ckpt", "a"})
      expect_same(load_state_dict(dir.write(alias, read_bytes(data(name)))), wanted);
}

TEST(LoadStateDict, SaysWhatAStrangeFileIs) {
  EXPECT_TRUE(load_fails(ErrorKind::bad_file, "is empty; the download or copy did not finish", ""));
  EXPECT_TRUE(load_fails(ErrorKind::bad_file, "is a Git LFS pointer",
                         "version https://git-lfs.github.com/spec/v1\noid sha256:0\n"));
  EXPECT_TRUE(load_fails(ErrorKind::bad_file, "is a web page", "<!DOCTYPE html><html></html>"));
  EXPECT_TRUE(load_fails(ErrorKind::bad_file, "is a web page", "\n\n <HTML lang=\"en\">"));
  EXPECT_TRUE(load_fails(ErrorKind::bad_file, "is a web page, which says \"Log in – Civitai\"; the download gave it",
                         "<!DOCTYPE html><html><head><Title>Log in – Civitai</title></head><body>x</body></html>"));
  EXPECT_TRUE(load_fails(ErrorKind::bad_file, "is a web page, which says \"502 Bad Gateway\"",
                         "<html>\n<body><h1>502 Bad Gateway</h1></body></html>"));
  EXPECT_TRUE(load_fails(ErrorKind::bad_file, "is an XML answer of a server, which says \"AccessDenied\"",
                         "<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code></Error>"));
  EXPECT_TRUE(load_fails(
      ErrorKind::bad_file,
      R"(is JSON without a weight_map, not a tensor file or the index of a sharded checkpoint; it says {"error":"Unauthorized"})",
      R"({"error":"Unauthorized"})"));
  EXPECT_TRUE(load_fails(ErrorKind::bad_file,
                         "is neither safetensors nor a torch file, but a text: \"Invalid username or password.\"",
                         "Invalid username or password.\n"));
  EXPECT_TRUE(load_fails(ErrorKind::unsupported, "is a GGUF file", std::string("GGUF\3\0\0\0", 8)));
  EXPECT_TRUE(
      load_fails(ErrorKind::unsupported, "is a tar archive", std::string(257, 'x') + "ustar" + std::string(300, '\0')));
  EXPECT_TRUE(load_fails(ErrorKind::bad_file,
                         "is neither safetensors nor a torch file; it begins with 89 50 4e 47 0d 0a 1a 0a",
                         read_bytes(data("rgb.png"))));
  EXPECT_TRUE(load_fails(ErrorKind::bad_file, "is JSON without a weight_map", R"({"a": 1})"));
  EXPECT_TRUE(load_fails(ErrorKind::bad_file, "is not JSON", "{oops"));
  EXPECT_TRUE(load_fails(ErrorKind::bad_file, "has 3 bytes", "abc"));
}

TEST(LoadStateDict, NoHeaderLengthIsTakenForAnotherFormat) {
  MemoryFile memory;
  for (uint64_t length = 2; length < 30'000; length += length < 2000 ? 1 : 8) {
    std::string bytes(reinterpret_cast<char*>(&length), 8);
    ASSERT_TRUE(load_state_dict(memory.write(bytes + "{" + std::string(length - 2, ' ') + "}")).empty()) << length;
  }
}

TEST(LoadStateDict, AJsonSizedHeaderLengthIsNotTakenForJson) {
  // 123 is '{'.
  std::string header = "{" + std::string(121, ' ') + "}";
  std::string bytes = std::string("{\0\0\0\0\0\0\0", 8) + header;
  TemporaryFolder dir;
  EXPECT_TRUE(load_state_dict(dir.write("a", bytes)).empty());
  EXPECT_TRUE(
      load_fails(ErrorKind::bad_file, "says its header has 123 bytes, but only 122 follow", bytes.substr(0, 130)));
}

TEST(LoadStateDict, MissingFilesAndFolders) {
  TemporaryFolder dir;
  EXPECT_TRUE(fails(ErrorKind::not_found, "none.safetensors: no such file",
                    [&] { load_state_dict(dir / "none.safetensors"); }));
  EXPECT_TRUE(fails(ErrorKind::bad_file, "is a folder; name a file in it", [&] { load_state_dict(dir / ""); }));
}

}  // namespace lora
