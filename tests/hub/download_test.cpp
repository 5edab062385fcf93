// Successful downloads: the requests to the Hub, and the files in the cache afterwards.
#include <thread>

#include "hub/hub_test.h"

namespace lora {

using Download = HubTest;

TEST_F(Download, SeveralFilesOfOneRevision) {
  auto folder = hf_hub_download_files("owner/name", {"unet/model.safetensors", "config.json"});
  EXPECT_EQ(bytes_of(folder / "unet/model.safetensors"), kWeights);
  EXPECT_EQ(bytes_of(folder / "config.json"), kConfig);
  EXPECT_FALSE(fs::exists(folder / "unet/config.json"));
  EXPECT_ERROR(ErrorKind::not_found, "did you mean \"config.json\"?",
               hf_hub_download_files("owner/name", {"confg.json", "unet/config.json"}));
  EXPECT_FALSE(fs::exists(folder / "unet/config.json"));
}

TEST_F(Download, AFileLiesWhereHuggingfaceHubPutsIt) {
  auto path = hf_hub_download("owner/name", "unet/model.safetensors");
  EXPECT_EQ(bytes_of(path), kWeights);
  auto all = tree(home_.cache());
  auto digest = sha256(kWeights);
  auto at = all.at("models--owner--name/refs/main");
  EXPECT_EQ(path, home_.repo("owner--name") / "snapshots" / at / "unet/model.safetensors");
  auto repo = std::string("models--owner--name");
  std::map<std::string, std::string> wanted = {
      {"CACHEDIR.TAG", all["CACHEDIR.TAG"]},
      {".locks", "folder"},
      {".locks/" + repo, "folder"},
      {".locks/" + repo + "/" + digest + ".lock", ""},
      {repo, "folder"},
      {repo + "/blobs", "folder"},
      {repo + "/blobs/" + digest, kWeights},
      {repo + "/refs", "folder"},
      {repo + "/refs/main", at},
      {repo + "/snapshots", "folder"},
      {repo + "/snapshots/" + at, "folder"},
      {repo + "/snapshots/" + at + "/unet", "folder"},
      {repo + "/snapshots/" + at + "/unet/model.safetensors", "-> ../../../blobs/" + digest},
  };
  EXPECT_EQ(all, wanted);
}

TEST_F(Download, ASmallFileIsNamedAsInGit) {
  auto path = hf_hub_download("owner/name", "config.json");
  EXPECT_EQ(fs::read_symlink(path), "../../blobs/" + git_sha1(kConfig));
}

TEST_F(Download, OneFileTakesAHeadAndAGet) {
  hf_hub_download("owner/name", "unet/model.safetensors");
  auto at = bytes_of(home_.repo("owner--name") / "refs/main");
  EXPECT_THAT(stub().requests(), ElementsAre("HEAD /owner/name/resolve/main/unet/model.safetensors",
                                             "GET /owner/name/resolve/" + at + "/unet/model.safetensors"));
  EXPECT_EQ(stub().requests("storage").size(), 1u);
}

TEST_F(Download, ACommitInTheCacheNeedsNoNetwork) {
  auto at = commit();
  auto path = hf_hub_download("owner/name", "config.json", {.revision = at});
  EXPECT_FALSE(fs::exists(home_.repo("owner--name") / "refs"));
  stub().reset();
  EXPECT_EQ(hf_hub_download("owner/name", "config.json", {.revision = at}), path);
  EXPECT_THAT(stub().requests(), IsEmpty());
}

TEST_F(Download, ABranchInTheCacheTakesAHead) {
  auto path = hf_hub_download("owner/name", "config.json");
  stub().reset();
  EXPECT_EQ(hf_hub_download("owner/name", "config.json"), path);
  EXPECT_THAT(stub().requests(), ElementsAre("HEAD /owner/name/resolve/main/config.json"));
}

TEST_F(Download, BranchesTagsAndPullRequests) {
  for (auto [revision, text] : {std::pair{"main", "{}\nmain"}, {"v1", "{}\nv1"}, {"refs/pr/1", "{}\nrefs%2Fpr%2F1"}}) {
    auto path = hf_hub_download("owner/name", "unet/config.json", {.revision = revision});
    EXPECT_EQ(bytes_of(path), text);
    EXPECT_EQ(bytes_of(home_.repo("owner--name") / "refs" / revision), path.parent_path().parent_path().filename());
  }
}

TEST_F(Download, AChangedBranchMovesTheRefAndKeepsTheOldSnapshot) {
  stub().write("owner/moving", "a.txt", "one");
  auto before = hf_hub_download("owner/moving", "a.txt");
  stub().write("owner/moving", "a.txt", "two");
  auto after = hf_hub_download("owner/moving", "a.txt");
  EXPECT_EQ(bytes_of(before), "one");
  EXPECT_EQ(bytes_of(after), "two");
  EXPECT_EQ(bytes_of(home_.repo("owner--moving") / "refs/main"), after.parent_path().filename());
}

TEST_F(Download, ForceDownloadsAgain) {
  auto path = hf_hub_download("owner/name", "unet/model.safetensors");
  std::ofstream(path, std::ios::binary) << "damaged";
  EXPECT_EQ(hf_hub_download("owner/name", "unet/model.safetensors", {.force_download = true}), path);
  EXPECT_EQ(bytes_of(path), kWeights);
  EXPECT_EQ(stub().requests("storage").size(), 2u);
}

TEST_F(Download, ABlobThatIsThereIsNotDownloadedForAnotherCommit) {
  hf_hub_download("owner/name", "unet/model.safetensors");
  stub().reset();
  auto path = hf_hub_download("owner/name", "unet/model.safetensors", {.revision = "v1"});
  EXPECT_EQ(bytes_of(path), kWeights);
  EXPECT_THAT(stub().requests("storage"), IsEmpty());
}

TEST_F(Download, NamesOfAllKinds) {
  for (const char* name :
       {"with space.txt", "für.txt", "a#b%c+d&e=f?.txt", "deep/er/and/deeper/x.txt", "日本.safetensors"}) {
    stub().write("owner/odd", name, name);
    EXPECT_EQ(bytes_of(hf_hub_download("owner/odd", name)), name);
  }
  stub().write("owner/odd", "empty.txt", "");
  stub().write("owner/odd", "empty.safetensors", "");
  EXPECT_EQ(bytes_of(hf_hub_download("owner/odd", "empty.txt")), "");
  EXPECT_EQ(bytes_of(hf_hub_download("owner/odd", "empty.safetensors")), "");
  EXPECT_EQ(snapshot_download("owner/odd", {}), hf_hub_download("owner/odd", "empty.txt").parent_path());
}

TEST_F(Download, OfflineTheCacheAlone) {
  auto path = hf_hub_download("owner/name", "config.json");
  stub().reset();
  Environment offline("HF_HUB_OFFLINE", "1");
  EXPECT_EQ(hf_hub_download("owner/name", "config.json"), path);
  EXPECT_ERROR(ErrorKind::not_found, "owner/name: unet/config.json: it is not in the cache",
               hf_hub_download("owner/name", "unet/config.json"));
  EXPECT_ERROR(ErrorKind::not_found, "HF_HUB_OFFLINE", hf_hub_download("owner/other", "config.json"));
  EXPECT_ERROR(ErrorKind::usage, "force_download needs the network",
               hf_hub_download("owner/name", "config.json", {.force_download = true}));
  // The call's option counts more than the environment.
  hf_hub_download("owner/name", "unet/config.json", {.local_files_only = false});
  EXPECT_EQ(stub().requests().size(), 2u);
}

TEST_F(Download, LocalFilesOnly) {
  EXPECT_ERROR(ErrorKind::not_found, "local_files_only",
               hf_hub_download("owner/name", "config.json", {.local_files_only = true}));
  EXPECT_ERROR(ErrorKind::not_found, "local_files_only",
               snapshot_download("owner/name", {}, {.local_files_only = true}));
  EXPECT_THAT(stub().requests(), IsEmpty());
}

TEST_F(Download, WithTheHubGoneACachedRevisionStillLoads) {
  HubStub hub;
  fill(hub);
  HubHome home(hub.endpoint());
  auto path = hf_hub_download("owner/name", "config.json");
  auto folder = snapshot_download("owner/name", {{"unet/*"}, {}});
  hub.stop();
  EXPECT_EQ(hf_hub_download("owner/name", "config.json"), path);
  EXPECT_EQ(snapshot_download("owner/name", {{"unet/*"}, {}}), folder);
  EXPECT_ERROR(ErrorKind::network, "is there a network?",
               hf_hub_download("owner/name", "config.json", {.revision = "v1"}));
}

TEST_F(Download, ASnapshotTakesARequestAFile) {
  auto folder = snapshot_download("owner/name");
  EXPECT_EQ(bytes_of(folder / "unet/model.safetensors"), kWeights);
  EXPECT_EQ(bytes_of(folder / "config.json"), kConfig);
  EXPECT_EQ(stub().requests().size(), 5u);  // the revision, the list, three files
  stub().reset();
  EXPECT_EQ(snapshot_download("owner/name"), folder);
  EXPECT_THAT(stub().requests(), ElementsAre("GET /api/models/owner/name/revision/main"));
  stub().reset();
  EXPECT_EQ(snapshot_download("owner/name", {}, {.revision = folder.filename().string()}), folder);
  EXPECT_THAT(stub().requests(), IsEmpty());
}

TEST_F(Download, PatternsChoose) {
  auto names = [&](FilePatterns patterns) {
    TemporaryFolder cache;
    auto folder = snapshot_download("owner/name", patterns, {.cache_dir = cache.path()});
    std::vector<std::string> found;
    for (const auto& [name, text] : tree(folder))
      if (text != "folder") found.push_back(name);
    return found;
  };
  EXPECT_THAT(names({{"*.json"}, {}}), ElementsAre("config.json", "unet/config.json"));
  EXPECT_THAT(names({{"unet\\*.json"}, {}}), ElementsAre("unet/config.json"));
  EXPECT_THAT(names({{"unet/"}, {}}), ElementsAre("unet/config.json", "unet/model.safetensors"));
  EXPECT_THAT(names({{"unet/*", "*.json"}, {"*.safetensors"}}), ElementsAre("config.json", "unet/config.json"));
  EXPECT_THAT(names({{}, {"[!u]*"}}), ElementsAre("unet/config.json", "unet/model.safetensors"));
  EXPECT_ERROR(ErrorKind::not_found, "the patterns match none of its 3 files", names({{"*.bin"}, {}}));
}

TEST_F(Download, AnIncompleteSnapshotIsNoneOffline) {
  auto folder = snapshot_download("owner/name");
  fs::remove(folder / "config.json");
  EXPECT_ERROR(ErrorKind::not_found, "config.json: it is not in the cache",
               snapshot_download("owner/name", {}, {.local_files_only = true}));
}

TEST_F(Download, ListsOfSeveralPages) {
  for (int i = 0; i < 1200; ++i)
    stub().write("owner/many", "f" + std::to_string(i) + ".txt", "x" + std::to_string(i % 7));
  auto folder = snapshot_download("owner/many");
  EXPECT_EQ(tree(folder).size(), 1200u);
  EXPECT_EQ(bytes_of(folder / "f1199.txt"), "x2");
}

TEST_F(Download, ListsThatAMirrorPassesOn) {
  auto digits = git_sha1(kConfig);
  nlohmann::json list = {{{"type", "file"}, {"path", "config.json"}, {"size", kConfig.size()}, {"oid", digits}}};
  auto next = "<https://huggingface.co/api/models/owner/name/tree/next>; rel=\"next\"";
  stub().rules({{{"path", "/tree/next"}, {"do", {{"json", nlohmann::json::array()}}}},
                {{"path", "/tree/"}, {"do", {{"json", list}, {"headers", {{"Link", next}}}}}}});
  EXPECT_EQ(bytes_of(snapshot_download("owner/name") / "config.json"), kConfig);
  EXPECT_THAT(stub().requests(), testing::Contains("GET /api/models/owner/name/tree/next"));
}

TEST_F(Download, WithoutSymbolicLinksThereAreCopies) {
  Environment copies("HF_HUB_DISABLE_SYMLINKS", "1");
  auto path = hf_hub_download("owner/name", "config.json");
  EXPECT_TRUE(fs::is_regular_file(fs::symlink_status(path)));
  EXPECT_EQ(bytes_of(path), kConfig);
  EXPECT_EQ(hf_hub_download("owner/name", "config.json"), path);
}

TEST_F(Download, TheTokenGoesToTheHubAndNobodyElse) {
  home_.log_in("hf_stored");
  hf_hub_download("owner/name", "unet/model.safetensors");
  snapshot_download("owner/name", {}, {.force_download = true});
  size_t hub = 0, storage = 0;
  for (const auto& request : stub().log()) {
    bool sent = request["headers"].contains("authorization");
    EXPECT_EQ(sent, request["server"] == "hub");
    ++(sent ? hub : storage);
    if (sent) {
      EXPECT_EQ(request["headers"]["authorization"], "Bearer hf_stored");
    }
  }
  EXPECT_EQ(hub, 7u);
  EXPECT_EQ(storage, 2u);
}

TEST_F(Download, WhichToken) {
  auto sent = [&](HubToken token) -> std::string {
    stub().reset();
    hf_hub_download("owner/name", "config.json", {.token = token});
    return stub().log()[0]["headers"].value("authorization", "");
  };
  EXPECT_EQ(sent({}), "");
  EXPECT_EQ(sent("hf_given"), "Bearer hf_given");
  EXPECT_ERROR(ErrorKind::forbidden, "there is no stored login: set HF_TOKEN", sent(true));
  home_.log_in("hf_stored");
  EXPECT_EQ(sent({}), "Bearer hf_stored");
  EXPECT_EQ(sent(true), "Bearer hf_stored");
  EXPECT_EQ(sent(false), "");
  EXPECT_EQ(sent("hf_given"), "Bearer hf_given");
  {
    Environment token("HF_TOKEN", " hf_environment\n");
    EXPECT_EQ(sent({}), "Bearer hf_environment");
  }
  {
    Environment implicit("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1");
    EXPECT_EQ(sent({}), "");
    EXPECT_EQ(sent(true), "Bearer hf_stored");
  }
  {
    TemporaryFolder folder;
    Environment place("HF_TOKEN_PATH", folder.write("login", "hf_elsewhere").string());
    EXPECT_EQ(sent({}), "Bearer hf_elsewhere");
  }
}

TEST_F(Download, PrivateAndGatedWithTheirToken) {
  EXPECT_EQ(bytes_of(hf_hub_download("owner/private", "a.safetensors", {.token = "hf_secret"})), kWeights);
  EXPECT_EQ(bytes_of(snapshot_download("owner/gated", {}, {.token = "hf_secret"}) / "a.safetensors"), kWeights);
}

TEST_F(Download, ARenamedRepositoryIsFollowedWithTheToken) {
  stub().rules(
      {{{"path", "^/old/name/"}, {"do", {{"redirect", stub().endpoint() + "/owner/name/resolve/main/config.json"}}}}});
  EXPECT_EQ(bytes_of(hf_hub_download("old/name", "config.json", {.token = "hf_given"})), kConfig);
  for (const auto& request : stub().log()) EXPECT_EQ(request["headers"]["authorization"], "Bearer hf_given");
}

TEST_F(Download, Proxies) {
  auto asked = [&] { return stub().requests("proxy").size(); };
  auto again = HubOptions{.force_download = true};
  again.proxies = {{"http", stub().proxy()}};
  hf_hub_download("owner/name", "unet/model.safetensors", again);
  EXPECT_EQ(asked(), 3u);
  again.proxies = {{"http://somewhere.else", stub().proxy()}, {"https", stub().proxy()}};
  hf_hub_download("owner/name", "config.json", again);
  EXPECT_EQ(asked(), 3u);
  again.proxies = {{"all", stub().proxy()}};
  hf_hub_download("owner/name", "config.json", again);
  EXPECT_EQ(asked(), 5u);
  again.proxies.clear();
  Environment proxy("http_proxy", stub().proxy());
  hf_hub_download("owner/name", "config.json", again);
  EXPECT_EQ(asked(), 7u);
  Environment none("no_proxy", "127.0.0.1,localhost");
  hf_hub_download("owner/name", "config.json", again);
  EXPECT_EQ(asked(), 7u);
}

TEST_F(Download, Progress) {
  HubProgress last;
  size_t calls = 0;
  snapshot_download("owner/name", {}, {.progress = [&](const HubProgress& now) {
                      EXPECT_LE(now.bytes, now.total_bytes);
                      EXPECT_GE(now.files, last.files);
                      last = now;
                      return ++calls > 0;
                    }});
  EXPECT_EQ(last.files, 3u);
  EXPECT_EQ(last.total_files, 3u);
  EXPECT_EQ(last.bytes, last.total_bytes);
  EXPECT_EQ(last.bytes, kWeights.size() + kConfig.size() + std::string("{}\nmain").size());
  EXPECT_GE(calls, 3u);
}

TEST_F(Download, ACacheThatCannotBeWrittenCanBeRead) {
  auto path = hf_hub_download("owner/name", "config.json");
  auto refs = home_.repo("owner--name") / "refs";
  fs::remove_all(refs);
  std::ofstream(refs) << "no folder";
  EXPECT_EQ(hf_hub_download("owner/name", "config.json"), path);
  EXPECT_EQ(snapshot_download("owner/name", {{"config.json"}, {}}), path.parent_path());
}

}  // namespace lora
