// Hostile servers and repositories.
#include "hub/hub_test.h"

namespace lora {

using nlohmann::json;

class Hostile : public HubTest {
 protected:
  static void rule(json rule) { stub().rules(json::array({std::move(rule)})); }
  static fs::path weights() { return hf_hub_download("owner/name", "unet/model.safetensors", {.token = "hf_given"}); }
  // Nothing was written outside the cache's folders.
  void expect_inside() const {
    for (const auto& entry : fs::recursive_directory_iterator(home_.cache().parent_path()))
      EXPECT_TRUE(entry.path().string().find("/hub/models--owner--name") != std::string::npos ||
                  entry.path().string().find("/hub/.locks") != std::string::npos || entry.path().filename() == "hub" ||
                  entry.path().filename() == "CACHEDIR.TAG")
          << entry.path();
  }
  static std::string digits(size_t count) { return std::string(count, 'a'); }
};

TEST_F(Hostile, NamesThatLeadOut) {
  for (const char* name : {"../evil", "/etc/passwd", "a/../../evil", "..", "a\\..\\..\\evil", "C:/evil", "a//b", "./a",
                           "a/.", "a\nb", "a\x01", ""}) {
    EXPECT_ERROR(ErrorKind::bad_file, "is not a valid file name", hf_hub_download("owner/name", name));
    rule({{"path", "/tree/"},
          {"do", {{"json", {{{"type", "file"}, {"path", name}, {"size", 3}, {"oid", digits(40)}}}}}}});
    EXPECT_ERROR(ErrorKind::bad_file, "is not a valid file name", snapshot_download("owner/name"));
    expect_inside();
  }
}

TEST_F(Hostile, ETagsThatLeadOut) {
  for (const char* etag : {"\"../../evil\"", "\"/etc/passwd\"", "..", ".hidden", "\"a b\"", "", "\"\"", "a%2Fb"}) {
    rule({{"method", "HEAD"}, {"do", {{"headers", {{"X-Linked-Etag", etag}, {"ETag", etag}}}}}});
    EXPECT_ERROR(ErrorKind::bad_file, "no ETag", weights());
    expect_inside();
  }
}

TEST_F(Hostile, CommitsThatLeadOut) {
  for (const char* commit : {"../../..", "main", "", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}) {
    rule({{"method", "HEAD"}, {"do", {{"headers", {{"X-Repo-Commit", commit}}}}}});
    EXPECT_ERROR(ErrorKind::bad_file, "no X-Repo-Commit", weights());
    rule({{"path", "/revision/"}, {"do", {{"json", {{"sha", commit}}}}}});
    EXPECT_ERROR(ErrorKind::bad_file, "is not one of the Hub", snapshot_download("owner/name"));
    expect_inside();
  }
  rule({{"do", {{"status", 404}, {"headers", {{"X-Error-Code", "EntryNotFound"}, {"X-Repo-Commit", "../../.."}}}}}});
  EXPECT_ERROR(ErrorKind::not_found, "no such file", weights());
  expect_inside();
}

TEST_F(Hostile, RefsInTheCacheThatLeadOut) {
  hf_hub_download("owner/name", "config.json");
  std::ofstream(home_.repo("owner--name") / "refs/main") << "../../../..";
  EXPECT_ERROR(ErrorKind::not_found, "not in the cache",
               hf_hub_download("owner/name", "config.json", {.local_files_only = true}));
}

TEST_F(Hostile, RedirectsElsewhereGetNoToken) {
  HubStub other;
  other.write("owner/name", "unet/model.safetensors", kWeights);
  rule({{"method", "GET"},
        {"do", {{"redirect", other.endpoint() + "/owner/name/resolve/main/unet/model.safetensors"}}}});
  EXPECT_EQ(bytes_of(weights()), kWeights);
  auto log = other.log();
  EXPECT_FALSE(log.empty());
  for (const auto& request : log) EXPECT_FALSE(request["headers"].contains("authorization"));
}

TEST_F(Hostile, RedirectsToOtherThanTheWeb) {
  for (const char* target : {"file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://x", "javascript:x"}) {
    rule({{"method", "GET"}, {"do", {{"redirect", target}}}});
    EXPECT_ERROR(ErrorKind::bad_file, "not safe to follow", weights());
  }
}

TEST_F(Hostile, RedirectsWithoutEnd) {
  rule({{"method", "GET"}, {"do", {{"redirect", stub().endpoint() + "/round/and/round"}}}});
  EXPECT_ERROR(ErrorKind::bad_file, "redirects more than 20 times", weights());
}

TEST_F(Hostile, RedirectsToNowhere) {
  for (int status : {300, 304, 307}) {
    rule({{"method", "GET"}, {"do", {{"status", status}}}});
    EXPECT_ERROR(ErrorKind::bad_file, "answered with " + std::to_string(status), weights());
    EXPECT_ERROR(ErrorKind::bad_file, "answered with " + std::to_string(status), snapshot_download("owner/name"));
    rule({{"method", "HEAD"}, {"do", {{"status", status}}}});
    EXPECT_ERROR(ErrorKind::bad_file, "answered with " + std::to_string(status), weights());
  }
}

TEST_F(Hostile, ListsThatGoOnElsewhere) {
  HubStub other;
  for (const auto& next : {other.endpoint() + "/api/models/owner/name/tree/x", std::string("file:///etc/passwd")}) {
    rule({{"path", "/tree/"}, {"do", {{"headers", {{"Link", "<" + next + ">; rel=\"next\""}}}}}});
    EXPECT_ERROR(ErrorKind::bad_file, "continues at another server than the Hub",
                 snapshot_download("owner/name", {}, {.token = "hf_given"}));
  }
  EXPECT_THAT(other.log(), IsEmpty());
}

TEST_F(Hostile, ListsThatAreNone) {
  for (const auto& body : {json("text"), json{{"a", 1}}, json{1, 2}, json{{{"type", "file"}}},
                           json{{{"type", "file"}, {"path", "a"}, {"size", -1}, {"oid", 3}}},
                           json{{{"type", "file"}, {"path", "a"}, {"size", 3}, {"oid", "../../x"}}}}) {
    rule({{"path", "/tree/"}, {"do", {{"json", body}}}});
    auto error = error_of([] { snapshot_download("owner/name"); });
    EXPECT_EQ(error.kind(), ErrorKind::bad_file) << error.what();
  }
}

TEST_F(Hostile, HeadersWithoutEnd) {
  json headers;
  for (int i = 0; i < 40; ++i) headers["X-Filler-" + std::to_string(i)] = std::string(15'000, 'x');
  rule({{"method", "HEAD"}, {"do", {{"headers", headers}}}});
  auto error = error_of([] { weights(); });
  EXPECT_TRUE(error.kind() == ErrorKind::bad_file || error.kind() == ErrorKind::network) << error.what();
}

TEST_F(Hostile, MoreBytesThanAnnounced) {
  rule({{"method", "HEAD"}, {"do", {{"headers", {{"X-Linked-Size", "1000"}}}}}});
  EXPECT_ERROR(ErrorKind::bad_file, "the Hub announced 1000", weights());
}

TEST_F(Hostile, AnotherPartThanAskedFor) {
  auto digest = sha256(kWeights);
  fs::create_directories(home_.repo("owner--name") / "blobs");
  std::ofstream(home_.repo("owner--name") / "blobs" / (digest + ".incomplete"), std::ios::binary)
      << kWeights.substr(0, 1000);
  rule({{"server", "storage"}, {"do", {{"headers", {{"Content-Range", "bytes 5-299999/300000"}}}}}});
  EXPECT_ERROR(ErrorKind::bad_file, "another part of the file", weights());
}

TEST_F(Hostile, SignaturesStayOutOfMessages) {
  rule({{"server", "storage"}, {"do", {{"status", 404}}}});
  auto error = error_of([] { weights(); });  // which looks for "secret", as the stub signs
  EXPECT_THAT(error.what(), HasSubstr(stub().storage() + "/blob/"));
}

}  // namespace lora
