#include "hub/environment.h"

#include "hub/hub_test.h"
#include "hub/names.h"

namespace lora {

TEST(HubEnvironment, WhereTheCacheIs) {
  HubHome none("http://x");
  Environment no_hf_home("HF_HOME", std::nullopt), home("HOME", "/home/me"), no_xdg("XDG_CACHE_HOME", std::nullopt);
  EXPECT_EQ(hub_cache({}), "/home/me/.cache/huggingface/hub");
  {
    Environment xdg("XDG_CACHE_HOME", "/caches");
    EXPECT_EQ(hub_cache({}), "/caches/huggingface/hub");
  }
  Environment given("HF_HOME", "~/hf");
  EXPECT_EQ(hub_cache({}), "/home/me/hf/hub");
  Environment old("HUGGINGFACE_HUB_CACHE", "/old");
  EXPECT_EQ(hub_cache({}), "/old");
  Environment cache("HF_HUB_CACHE", "$HOME/a${HOME}b$NO_SUCH_VARIABLE$");
  EXPECT_EQ(hub_cache({}), "/home/me/a/home/meb$NO_SUCH_VARIABLE$");
  EXPECT_EQ(hub_cache("/x/../y"), "/y");
  EXPECT_EQ(hub_cache("relative"), fs::current_path() / "relative");
}

TEST(HubEnvironment, Endpoint) {
  HubHome home("http://localhost:1234//");
  EXPECT_EQ(hub_endpoint(), "http://localhost:1234");
  Environment none("HF_ENDPOINT", std::nullopt);
  EXPECT_EQ(hub_endpoint(), "https://huggingface.co");
  Environment wrong("HF_ENDPOINT", "huggingface.co");
  EXPECT_THROW(hub_endpoint(), Error);
}

TEST(HubEnvironment, Offline) {
  HubHome home("http://x");
  EXPECT_FALSE(hub_offline());
  for (const char* yes : {"1", "true", "YES", "On"}) {
    Environment offline("HF_HUB_OFFLINE", yes);
    EXPECT_TRUE(hub_offline()) << yes;
  }
  Environment no("HF_HUB_OFFLINE", "0");
  EXPECT_FALSE(hub_offline());
  Environment none("HF_HUB_OFFLINE", std::nullopt), transformers("TRANSFORMERS_OFFLINE", "1");
  EXPECT_TRUE(hub_offline());
}

TEST(HubEnvironment, Timeouts) {
  HubHome home("http://x");
  EXPECT_EQ(hub_etag_timeout(), 10);
  EXPECT_EQ(hub_download_timeout(), 10);
  Environment three("HF_HUB_ETAG_TIMEOUT", "3"), soon("HF_HUB_DOWNLOAD_TIMEOUT", "soon");
  EXPECT_EQ(hub_etag_timeout(), 3);
  EXPECT_THROW(hub_download_timeout(), Error);
}

TEST(HubNames, Repositories) {
  for (const char* id : {"owner/name", "a/b", "Foo-BAR_foo.bar123/x", "1/2"}) EXPECT_TRUE(is_repo_id(id)) << id;
  for (const char* id :
       {"name", "./x", "../x", "/x/y", "~/x", "a/b/c", "a/", "/b", "a/.b", "a/b-", "a/b..c", "x/y.git", ""})
    EXPECT_FALSE(is_repo_id(id)) << id;
  EXPECT_NO_THROW(check_repo_id("gpt2"));
  EXPECT_THROW(check_repo_id("x--y"), Error);
  EXPECT_TRUE(is_repo_id(std::string(96, 'a') + "/" + std::string(96, 'b')));
  EXPECT_FALSE(is_repo_id(std::string(97, 'a') + "/b"));
}

TEST(HubNames, Addresses) {
  EXPECT_EQ(url_quoted("a b/ü#%.txt"), "a%20b/%C3%BC%23%25.txt");
  EXPECT_EQ(url_quoted("refs/pr/1", ""), "refs%2Fpr%2F1");
}

}  // namespace lora
