// Lists, verifies and removes downloaded files.
#include "hub/hub_test.h"

namespace lora {

class Cache : public HubTest {
 protected:
  const CachedRepo& repo(const CacheInfo& cache, const std::string& id) const {
    for (const auto& repo : cache.repos)
      if (repo.repo_id == id) return repo;
    throw std::runtime_error("no " + id);
  }
};

TEST_F(Cache, IsListed) {
  auto main = snapshot_download("owner/name"), tag = snapshot_download("owner/name", {}, {.revision = "v1"});
  hf_hub_download("owner/private", "a.safetensors", {.token = "hf_secret"});
  auto cache = scan_cache_dir();
  EXPECT_EQ(cache.cache_dir, home_.cache());
  EXPECT_THAT(cache.warnings, IsEmpty());
  ASSERT_EQ(cache.repos.size(), 2u);
  const auto& name = repo(cache, "owner/name");
  EXPECT_EQ(name.repo_type, "model");
  EXPECT_EQ(name.nb_files, 4u);  // the two revisions share two of three
  uint64_t shared = kWeights.size() + kConfig.size();
  EXPECT_EQ(name.size_on_disk, shared + std::string("{}\nmain{}\nv1").size());
  ASSERT_EQ(name.revisions.size(), 2u);
  for (const auto& revision : name.revisions) {
    bool is_main = revision.path == main;
    EXPECT_EQ(revision.path, is_main ? main : tag);
    EXPECT_THAT(revision.refs, ElementsAre(is_main ? "main" : "v1"));
    EXPECT_EQ(revision.files.size(), 3u);
    EXPECT_EQ(revision.size_on_disk, shared + (is_main ? 7 : 5));
  }
  EXPECT_EQ(cache.size_on_disk, name.size_on_disk + kWeights.size());
  auto json = nlohmann::json::parse(cache.json());
  EXPECT_EQ(json["repos"][0]["revisions"][0]["nb_files"], 3);
}

TEST_F(Cache, FindsARepositoryByItsId) {
  snapshot_download("owner/name");
  auto cache = scan_cache_dir();
  ASSERT_EQ(cache.find("owner/name").size(), 1u);
  EXPECT_EQ(cache.find("owner/name")[0], &cache.repos[0]);
  EXPECT_ERROR(ErrorKind::not_found, "did you mean \"owner/name\"?", cache.find("owner/nam"));
}

TEST_F(Cache, ThatIsNotThere) { EXPECT_ERROR(ErrorKind::not_found, "no such cache", scan_cache_dir("/no/such/cache")); }

TEST_F(Cache, BrokenPartsAreTold) {
  auto path = hf_hub_download("owner/name", "config.json");
  fs::remove(home_.repo("owner--name") / "blobs" / git_sha1(kConfig));
  std::ofstream(home_.repo("owner--name") / "refs/gone") << std::string(40, '1');
  std::ofstream(home_.repo("owner--name") / "blobs/x.incomplete") << "1234";
  fs::create_directories(home_.cache() / "something else");
  auto cache = scan_cache_dir();
  EXPECT_EQ(repo(cache, "owner/name").incomplete_size, 4u);
  EXPECT_THAT(cache.warnings, UnorderedElementsAre(HasSubstr("config.json links to"), HasSubstr("gone points to 1111"),
                                                   HasSubstr("something else: is not a repository")));
}

TEST_F(Cache, IsVerified) {
  snapshot_download("owner/name");
  auto clean = verify_cache(scan_cache_dir().repos[0]);
  EXPECT_EQ(clean.files_checked, 3u);
  EXPECT_THAT(clean.problems, IsEmpty());
  for (const auto& bytes : {sha256(kWeights), git_sha1(kConfig)}) {
    auto blob = home_.repo("owner--name") / "blobs" / bytes;
    auto text = bytes_of(blob);
    text[5] = char(text[5] + 1);
    std::ofstream(blob, std::ios::binary) << text;
  }
  auto damaged = verify_cache(scan_cache_dir().repos[0]);
  EXPECT_THAT(damaged.problems, UnorderedElementsAre(HasSubstr("unet/model.safetensors has the digest"),
                                                     HasSubstr(": config.json has the digest")));
}

TEST_F(Cache, CopiesAreVerifiedByTheList) {
  Environment copies("HF_HUB_DISABLE_SYMLINKS", "1");
  auto folder = snapshot_download("owner/name");
  EXPECT_EQ(verify_cache(scan_cache_dir().repos[0]).files_checked, 3u);
  std::ofstream(folder / "config.json") << "changed";
  EXPECT_THAT(verify_cache(scan_cache_dir().repos[0]).problems, ElementsAre(HasSubstr("config.json")));
  fs::remove_all(folder.parent_path().parent_path() / "trees");
  auto unknown = verify_cache(scan_cache_dir().repos[0]);
  EXPECT_EQ(unknown.files_checked, 0u);
  EXPECT_EQ(unknown.unknown.size(), 3u);
}

TEST_F(Cache, ARevisionIsRemovedWithWhatItAloneUses) {
  auto main = snapshot_download("owner/name"), tag = snapshot_download("owner/name", {}, {.revision = "v1"});
  auto cache = scan_cache_dir();
  EXPECT_ERROR(ErrorKind::not_found, "the cache has no such revision",
               remove_from_cache(cache, cache.repos[0], {std::string(40, '0')}));
  EXPECT_EQ(remove_from_cache(cache, cache.repos[0], {tag.filename().string()}), 5u);
  EXPECT_FALSE(fs::exists(tag));
  EXPECT_FALSE(fs::exists(home_.repo("owner--name") / "refs/v1"));
  EXPECT_EQ(bytes_of(main / "unet/model.safetensors"), kWeights);
  stub().reset();
  EXPECT_EQ(snapshot_download("owner/name", {}, {.local_files_only = true}), main);
  EXPECT_EQ(verify_cache(scan_cache_dir().repos[0]).files_checked, 3u);
}

TEST_F(Cache, ARepositoryIsRemovedWhole) {
  auto folder = snapshot_download("owner/name");
  auto cache = scan_cache_dir();
  EXPECT_GE(remove_from_cache(cache, cache.repos[0]), kWeights.size());
  EXPECT_FALSE(fs::exists(home_.repo("owner--name")));
  EXPECT_THAT(scan_cache_dir().repos, IsEmpty());
  EXPECT_EQ(snapshot_download("owner/name"), folder);
  cache = scan_cache_dir();
  remove_from_cache(cache, cache.repos[0], {folder.filename().string()});  // the last revision
  EXPECT_FALSE(fs::exists(home_.repo("owner--name")));
}

}  // namespace lora
