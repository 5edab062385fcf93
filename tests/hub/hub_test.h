#pragma once
// Helpers for the tests of the Hub: one stub for each suite, an empty cache for each test.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <random>

#include "hub/stub.h"
#include "io/digest.h"
#include "lora/error.h"
#include "lora/hub.h"

namespace lora {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::UnorderedElementsAre;

inline std::string bytes_of(const fs::path& file) {
  return {std::istreambuf_iterator<char>(std::ifstream(file, std::ios::binary).rdbuf()), {}};
}

inline std::string random_bytes(size_t size, uint32_t seed = 1) {
  std::mt19937 random(seed);
  std::string bytes(size, '\0');
  for (auto& c : bytes) c = char(random());
  return bytes;
}

inline std::string sha256(const std::string& bytes) {
  Sha256 digest;
  digest.add(bytes.data(), bytes.size());
  return digest.digits();
}

inline std::string git_sha1(const std::string& bytes) {
  auto header = "blob " + std::to_string(bytes.size()) + '\0';
  Sha1 digest;
  digest.add(header.data(), header.size());
  digest.add(bytes.data(), bytes.size());
  return digest.digits();
}

// The files, links and folders below a folder, by their relative names. A link has its target.
inline std::map<std::string, std::string> tree(const fs::path& folder) {
  std::map<std::string, std::string> all;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    auto name = entry.path().lexically_relative(folder).generic_string();
    if (entry.is_symlink())
      all[name] = "-> " + fs::read_symlink(entry.path()).string();
    else
      all[name] = entry.is_directory() ? "folder" : bytes_of(entry.path());
  }
  return all;
}

inline const std::string kWeights = random_bytes(300'000);
inline const std::string kConfig = "{\"sample_size\": 64}\n";

class HubTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    stub_ = new HubStub;
    fill(*stub_);
  }
  static void TearDownTestSuite() {
    delete stub_;
    stub_ = nullptr;
  }
  static void fill(const HubStub& hub) {
    for (const char* revision : {"main", "v1", "refs%2Fpr%2F1"}) {
      hub.write("owner/name", "config.json", kConfig, revision);
      hub.write("owner/name", "unet/model.safetensors", kWeights, revision);
      hub.write("owner/name", "unet/config.json", std::string("{}\n") + revision, revision);
    }
    hub.write("owner/private", "a.safetensors", kWeights);
    hub.restrict("owner/private", {{"private", true}, {"token", "hf_secret"}});
    hub.write("owner/gated", "a.safetensors", kWeights);
    hub.restrict("owner/gated", {{"gated", true}, {"token", "hf_secret"}});
  }
  void SetUp() override { stub().reset(); }

  static HubStub& stub() { return *stub_; }
  // The commit of a revision.
  static std::string commit(const std::string& revision = "main", const std::string& repo_id = "owner/name") {
    TemporaryFolder elsewhere;
    auto folder =
        snapshot_download(repo_id, {{"config.json"}, {}}, {.cache_dir = elsewhere.path(), .revision = revision});
    stub().reset();
    return folder.filename().string();
  }
  // The error of a call. Checks that the message does not contain a token.
  template <class F>
  static Error error_of(F&& call) {
    try {
      call();
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), Not(HasSubstr("hf_")));
      EXPECT_THAT(error.what(), Not(HasSubstr("secret")));
      return error;
    }
    ADD_FAILURE() << "no error";
    return Error(ErrorKind::cancelled, "no error");
  }

  HubHome home_{stub().endpoint()};

 private:
  static inline HubStub* stub_ = nullptr;
};

#define EXPECT_ERROR(kind_, text, ...)                                       \
  do {                                                                       \
    auto error = error_of([&] { __VA_ARGS__; });                             \
    EXPECT_STREQ(to_string(error.kind()), to_string(kind_)) << error.what(); \
    EXPECT_THAT(error.what(), HasSubstr(text));                              \
  } while (false)

}  // namespace lora
