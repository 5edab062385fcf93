// Failures: each has a kind, and a message that says what to do. error_of() checks that no message contains a token.
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>

#include "hub/hub_test.h"

// Replaces the C library's functions: the disk is full after a given number of bytes were written below a folder.
static std::atomic<int64_t> disk_has = -1;  // no end to it
extern "C" ssize_t pwrite(int fd, const void* data, size_t size, off_t at) {
  if (disk_has >= 0 && at + off_t(size) > disk_has) {
    errno = ENOSPC;
    return -1;
  }
  return ::syscall(SYS_pwrite64, fd, data, size, at);
}

namespace lora {

using nlohmann::json;

class Failures : public HubTest {
 protected:
  void SetUp() override {
    HubTest::SetUp();
    home_.log_in("hf_wrong");
  }
  static void rule(json rule) { stub().rules(json::array({std::move(rule)})); }
  static fs::path weights() { return hf_hub_download("owner/name", "unet/model.safetensors"); }
  // There is nothing that a program could use as a file.
  void expect_nothing_visible() const {
    EXPECT_FALSE(fs::exists(home_.repo("owner--name") / "snapshots" / "x"));
    for (const auto& [name, text] :
         fs::exists(home_.cache()) ? tree(home_.cache()) : std::map<std::string, std::string>())
      EXPECT_FALSE(name.find("/blobs/") != name.npos && !name.ends_with(".incomplete")) << name;
  }
};

TEST_F(Failures, NoSuchRepository) {
  EXPECT_ERROR(ErrorKind::not_found,
               "nobody/nothing: config.json: the Hub has no such repository, or it is private; the token that was sent",
               hf_hub_download("nobody/nothing", "config.json"));
  EXPECT_ERROR(ErrorKind::not_found, "no token was sent: log in with `hf auth login`, or set HF_TOKEN",
               snapshot_download("nobody/nothing", {}, {.token = false}));
}

TEST_F(Failures, PrivateRepository) {
  EXPECT_ERROR(ErrorKind::not_found, "or it is private; no token was sent",
               hf_hub_download("owner/private", "a.safetensors", {.token = false}));
}

TEST_F(Failures, GatedRepository) {
  EXPECT_ERROR(ErrorKind::forbidden,
               "accept its conditions at " + stub().endpoint() + "/owner/gated; no token was sent",
               hf_hub_download("owner/gated", "a.safetensors", {.token = false}));
  EXPECT_ERROR(ErrorKind::forbidden,
               "the token that was sent (the stored login, or the given one) does not give access",
               snapshot_download("owner/gated"));
}

TEST_F(Failures, NoSuchRevision) {
  EXPECT_ERROR(ErrorKind::not_found, "owner/name at v9: config.json: the Hub has no such revision",
               hf_hub_download("owner/name", "config.json", {.revision = "v9"}));
  EXPECT_ERROR(ErrorKind::not_found, "/owner/name/tree/main lists its branches",
               snapshot_download("owner/name", {}, {.revision = "v9"}));
}

TEST_F(Failures, NoSuchFileIsNotedAndSaid) {
  EXPECT_ERROR(ErrorKind::not_found, "owner/name: nothing.json: the repository has no such file",
               hf_hub_download("owner/name", "nothing.json"));
  auto at = bytes_of(home_.repo("owner--name") / "refs/main");
  EXPECT_TRUE(fs::is_regular_file(home_.repo("owner--name") / ".no_exist" / at / "nothing.json"));
}

TEST_F(Failures, ATokenThatTheHubDoesNotKnow) {
  rule({{"do", {{"status", 401}, {"headers", {{"X-Error-Message", "Invalid credentials in Authorization header"}}}}}});
  EXPECT_ERROR(ErrorKind::forbidden, "the Hub does not know the token that was sent", weights());
}

TEST_F(Failures, AForbiddenPlace) {
  rule({{"server", "storage"}, {"do", {{"status", 403}}}});
  EXPECT_ERROR(ErrorKind::forbidden, stub().storage() + "/blob/", weights());
  expect_nothing_visible();
}

TEST_F(Failures, NoServer) {
  Environment nowhere("HF_ENDPOINT", "http://127.0.0.1:9");
  EXPECT_ERROR(ErrorKind::network, "127.0.0.1 or the proxy does not answer", weights());
  Environment nobody("HF_ENDPOINT", "http://no-such-host.invalid");
  EXPECT_ERROR(ErrorKind::network, "no-such-host.invalid cannot be found: is there a network?", weights());
}

TEST_F(Failures, NoAnswer) {
  Environment soon("HF_HUB_ETAG_TIMEOUT", "1");
  weights();
  rule({{"do", {{"wait", 30}}}});
  weights();  // the cache has it
  auto begin = std::chrono::steady_clock::now();
  weights();
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(5));
}

TEST_F(Failures, BusyServersAreAskedAgain) {
  for (int status : {429, 500, 502, 503, 504}) {
    stub().reset();
    rule({{"times", 2}, {"do", {{"status", status}, {"headers", {{"Retry-After", "0"}}}}}});
    EXPECT_EQ(bytes_of(hf_hub_download("owner/name", "unet/model.safetensors", {.force_download = true})), kWeights);
    EXPECT_EQ(stub().requests().size(), 4u) << status;
  }
  stub().reset();
  rule({{"server", "storage"}, {"times", 2}, {"do", {{"status", 503}, {"headers", {{"Retry-After", "0"}}}}}});
  EXPECT_EQ(bytes_of(hf_hub_download("owner/name", "unet/model.safetensors", {.force_download = true})), kWeights);
  EXPECT_EQ(stub().requests("storage").size(), 3u);
}

TEST_F(Failures, AServerThatStaysBusy) {
  rule({{"do", {{"status", 503}, {"headers", {{"Retry-After", "0"}}}}}});
  EXPECT_ERROR(ErrorKind::network, "cannot answer now (503)", weights());
  EXPECT_EQ(stub().requests().size(), 6u);
  rule({{"do", {{"status", 429}, {"headers", {{"ratelimit", "\"api\";r=0;t=300"}}}}}});
  EXPECT_ERROR(ErrorKind::network, "asks to retry in 301 s", weights());
}

TEST_F(Failures, WhatTheCacheHasIsUsedWithoutWaiting) {
  auto path = weights();
  rule({{"do", {{"status", 503}}}});
  auto begin = std::chrono::steady_clock::now();
  EXPECT_EQ(weights(), path);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::milliseconds(900));
  EXPECT_EQ(stub().requests().size(), 3u);  // two before, and one now
  rule({{"do", {{"status", 401}, {"headers", {{"X-Error-Code", "RepoNotFound"}}}}}});
  EXPECT_EQ(weights(), path);
}

TEST_F(Failures, AWebPageInPlaceOfTheFile) {
  rule({{"server", "storage"},
        {"do", {{"body", "<html>Please log in</html>"}, {"headers", {{"Content-Type", "text/html"}}}}}});
  EXPECT_ERROR(ErrorKind::bad_file, "sends a web page in place of the file", weights());
  rule({{"do", {{"body", "<html>Please log in</html>"}, {"headers", {{"Content-Type", "text/html"}}}}}});
  EXPECT_ERROR(ErrorKind::bad_file, "is not one of the Hub", weights());
  EXPECT_ERROR(ErrorKind::bad_file, "is not one of the Hub", snapshot_download("owner/name"));
  expect_nothing_visible();
}

TEST_F(Failures, TheWrongSize) {
  rule({{"server", "storage"}, {"do", {{"body", "short"}}}});
  EXPECT_ERROR(ErrorKind::bad_file, "sends 5 bytes, but the Hub announced 300000", weights());
  expect_nothing_visible();
}

TEST_F(Failures, TheWrongDigest) {
  rule({{"server", "storage"}, {"do", {{"flip_byte", 1000}}}});
  EXPECT_ERROR(ErrorKind::bad_file, "do not have the digest that the Hub announced, and were deleted", weights());
  expect_nothing_visible();
  rule({{"method", "GET"}, {"path", "config.json"}, {"do", {{"flip_byte", 3}}}});
  EXPECT_ERROR(ErrorKind::bad_file, "do not have the digest", hf_hub_download("owner/name", "config.json"));
  expect_nothing_visible();
}

TEST_F(Failures, AWrongETagAnnounced) {
  rule({{"method", "HEAD"}, {"do", {{"headers", {{"X-Linked-Etag", '"' + std::string(64, '0') + '"'}}}}}});
  EXPECT_ERROR(ErrorKind::bad_file, "do not have the digest", weights());
  expect_nothing_visible();
}

TEST_F(Failures, ADiskThatIsTooSmall) {
  rule({{"method", "HEAD"}, {"do", {{"headers", {{"X-Linked-Size", "4000000000000000"}}}}}});
  EXPECT_ERROR(ErrorKind::io, "the download needs 4000000000.0 MB; make room", weights());
  expect_nothing_visible();
}

TEST_F(Failures, ADiskThatBecomesFull) {
  rule({{"server", "storage"}, {"do", {{"bytes_per_second", 1'000'000}}}});
  disk_has = 200'000;
  EXPECT_ERROR(ErrorKind::io, "No space left on device; make room (`lora cache`), or set HF_HUB_CACHE", weights());
  disk_has = -1;
  expect_nothing_visible();
  EXPECT_TRUE(fs::is_empty(home_.repo("owner--name") / "blobs"));  // what came is not left to fill the disk
}

TEST_F(Failures, ACacheThatIsAFile) {
  TemporaryFolder folder;
  auto file = folder.write("cache", "");
  EXPECT_ERROR(ErrorKind::io, "the folder cannot be created",
               hf_hub_download("owner/name", "config.json", {.cache_dir = file}));
}

TEST_F(Failures, TheCallersMistakes) {
  for (const char* id : {"", "a/b/c", "-a/b", "a/b.git", "a--b/c", "a/..", "a b/c", "http://x/y", "ü/x", "a\n/b"})
    EXPECT_ERROR(ErrorKind::usage, "is not a repository id", hf_hub_download(id, "config.json"));
  for (const char* revision : {"../main", "/main", "a//b", "a\nb", "main/"})
    EXPECT_ERROR(ErrorKind::usage, "is not a revision",
                 hf_hub_download("owner/name", "config.json", {.revision = revision}));
  EXPECT_ERROR(ErrorKind::usage, "characters that are not allowed in a token",
               hf_hub_download("owner/name", "config.json", {.token = "x\r\nHost: elsewhere"}));
  EXPECT_THAT(stub().requests(), IsEmpty());
}

TEST_F(Failures, OneOfManyStopsTheOthers) {
  rule({{"path", "resolve/.*config"}, {"do", {{"status", 403}}}});
  EXPECT_ERROR(ErrorKind::forbidden, "config.json", snapshot_download("owner/name"));
}

}  // namespace lora
