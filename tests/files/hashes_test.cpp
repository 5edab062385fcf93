#include <unistd.h>

#include <fstream>

#include "io/digest.h"
#include "io/safetensors.h"
#include "lora/lora_folder.h"
#include "support/compare.h"

namespace lora {

namespace {

std::string sha256(const std::string& text) {
  Sha256 hash;
  hash.add(text.data(), text.size());
  return hash.digits();
}

// "abc", in one file: the same bytes as the standard's example.
StateDict abc() {
  StateDict file{{"b", at::tensor({98, 99}, at::kByte)}, {"a", at::tensor({97}, at::kByte)}};
  return file;
}

constexpr auto kAbc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

std::string claim(const std::string& key, const std::string& value) {
  TemporaryFolder folder;
  auto file = abc();
  file.metadata[key] = value;
  save_safetensors(file, folder / "a.safetensors");
  return hash_file(folder / "a.safetensors").claims.at(key);
}

}  // namespace

TEST(Sha256, IsTheStandards) {
  EXPECT_EQ(sha256("abc"), kAbc);
  EXPECT_EQ(sha256(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  Sha256 pieces;
  pieces.add("a", 1);
  pieces.add("", 0);
  pieces.add("bc", 2);
  EXPECT_EQ(pieces.digits(), kAbc);
}

TEST(Hashes, OfTheFileAndOfItsData) {
  TemporaryFolder folder;
  auto file = abc();
  save_safetensors(file, folder / "a.safetensors");
  file.metadata["note"] = "this changes the file and not the data";
  save_safetensors(file, folder / "b.safetensors");
  auto a = hash_file(folder / "a.safetensors"), b = hash_file(folder / "b.safetensors");
  EXPECT_EQ(a.data, kAbc);
  EXPECT_EQ(b.data, kAbc);
  EXPECT_NE(a.file, b.file);
  std::ifstream in(folder / "a.safetensors", std::ios::binary);
  EXPECT_EQ(a.file, sha256({std::istreambuf_iterator<char>(in), {}}));
  EXPECT_EQ(a.auto_v2(), a.file.substr(0, 10));
  EXPECT_EQ(a.auto_v3(), "ba7816bf8f01");
  EXPECT_TRUE(a.claims.empty());
  EXPECT_FALSE(a.changed());
}

TEST(FindLora, LooksInFoldersBelow) {
  TemporaryFolder folder;
  std::filesystem::create_directories(folder / "a/b");
  save_safetensors(abc(), folder / "a/b/ink.safetensors");
  EXPECT_EQ(find_lora(folder.path(), "ink").file, folder / "a/b/ink.safetensors");
  EXPECT_NE(error_of(ErrorKind::not_found, [&] { find_lora(folder.path(), "inc"); }).find("did you mean \"ink\"?"),
            std::string::npos);
  error_of(ErrorKind::not_found, [&] { find_lora(folder / "none", "ink"); });
}

TEST(FindLora, FindsByFolderEndingAndLink) {
  TemporaryFolder folder, elsewhere;
  std::filesystem::create_directories(folder / "char");
  std::filesystem::create_directories(folder / "pose");
  auto add = [](const std::filesystem::path& file) { std::ofstream(file) << "x"; };
  for (auto file : {"char/sample.safetensors", "pose/sample.safetensors", "sample.ckpt", "old.PT", "two.safetensors",
                    "two.bin", "a.b.safetensors", "notes.txt"})
    add(folder / file);
  add(elsewhere / "far.safetensors");
  std::filesystem::create_directory_symlink(elsewhere.path(), folder / "disk2");
  std::filesystem::create_directory_symlink(folder.path(), folder / "pose/round");  // a circle
  std::filesystem::create_symlink(folder / "two.bin", folder / "again.bin");
  std::filesystem::create_directory_symlink(folder / "pose", folder / "alias");
  const std::pair<const char*, const char*> found[] = {{"char/sample", "char/sample.safetensors"},
                                                       {"pose/sample.safetensors", "pose/sample.safetensors"},
                                                       {"./sample", "sample.ckpt"},
                                                       {"sample.ckpt", "sample.ckpt"},
                                                       {"old", "old.PT"},
                                                       {"far", "disk2/far.safetensors"},
                                                       {"disk2/far", "disk2/far.safetensors"},
                                                       {"two.safetensors", "two.safetensors"},
                                                       {"a.b", "a.b.safetensors"},
                                                       {"again", "again.bin"}};
  for (auto [name, file] : found) EXPECT_EQ(find_lora(folder.path(), name).file, folder / file) << name;
  for (auto name : {"notes", "notes.txt", "", "har/sample", "../far", "b", "./far"})
    error_of(ErrorKind::not_found, [&] { find_lora(folder.path(), name); });
  auto said = error_of(ErrorKind::usage, [&] { find_lora(folder.path(), "sample"); });
  for (auto file : {"char/sample.safetensors", "pose/sample.safetensors", "sample.ckpt"})
    EXPECT_NE(said.find(file), std::string::npos) << said;
  error_of(ErrorKind::usage, [&] { find_lora(folder.path(), "two"); });
}

TEST(FindLora, GoesOnBehindAFolderThatCannotBeRead) {
  TemporaryFolder folder;
  std::filesystem::create_directories(folder / "closed");
  std::ofstream(folder / "z.safetensors") << "x";
  std::filesystem::permissions(folder / "closed", std::filesystem::perms::none);
  auto found = find_lora(folder.path(), "z");
  EXPECT_EQ(found.file, folder / "z.safetensors");
  // The superuser can read every folder.
  if (::geteuid() != 0) {
    ASSERT_EQ(found.notes.size(), 1u);
    EXPECT_NE(found.notes[0].find("closed"), std::string::npos);
  }
  std::filesystem::permissions(folder / "closed", std::filesystem::perms::owner_all);
}

TEST(Hashes, OfAPickleAreOfTheFileAlone) {
  TemporaryFolder folder;
  save_pickle(abc(), folder / "a.pt");
  auto hashes = hash_file(folder / "a.pt");
  EXPECT_EQ(hashes.file.size(), 64u);
  EXPECT_EQ(hashes.data, "");
}

TEST(Hashes, ClaimsOfTheMetadataAreChecked) {
  std::string other(64, '0');
  EXPECT_EQ(claim("sshs_model_hash", kAbc), "matches");
  EXPECT_EQ(claim("sshs_model_hash", "BA" + std::string(kAbc).substr(2)), "matches");
  EXPECT_EQ(claim("sshs_model_hash", other), "differs: the tensors are not those that were hashed");
  EXPECT_EQ(claim("sshs_model_hash", std::string("0x") + kAbc), "matches");
  EXPECT_NE(claim("sshs_model_hash", "0x" + other).find("cannot be checked"), std::string::npos);
  EXPECT_NE(claim("sshs_legacy_hash", "01234567").find("cannot be checked"), std::string::npos);
  EXPECT_EQ(claim("modelspec.hash_sha256", std::string("0x") + kAbc), "matches");
  EXPECT_EQ(claim("modelspec.hash_sha256", "0x" + other), "differs: the tensors are not those that were hashed");
}

// float16 data lies after float32 data whatever the names: OneTrainer's hash is by name.
TEST(Hashes, OneTrainersIsInTheOrderOfNames) {
  TemporaryFolder folder;
  StateDict file{{"a", at::tensor({97}, at::kByte)}, {"b", at::tensor({0x6362}, at::kShort)}};
  file.metadata["modelspec.hash_sha256"] = std::string("0x") + kAbc;
  save_safetensors(file, folder / "a.safetensors");
  auto hashes = hash_file(folder / "a.safetensors");
  EXPECT_EQ(hashes.data, sha256("bca"));
  EXPECT_EQ(hashes.claims.at("modelspec.hash_sha256"), "matches");
}

TEST(Hashes, TheWriterPutsItsOwnIntoTheHeader) {
  TemporaryFolder folder;
  std::vector<PendingTensor> tensors = {{"a", at::kByte, {3}, [] { return at::tensor({97, 98, 99}, at::kByte); }}};
  save_safetensors(tensors, {{"note", "\"sshs_model_hash\":\""}}, folder / "a.safetensors", "sshs_model_hash");
  auto metadata = load_state_dict(folder / "a.safetensors").metadata;
  EXPECT_EQ(metadata.at("sshs_model_hash"), kAbc);
  EXPECT_EQ(metadata.at("note"), "\"sshs_model_hash\":\"");
  EXPECT_EQ(hash_file(folder / "a.safetensors").claims.at("sshs_model_hash"), "matches");
}

TEST(PendingTensors, AreMadeOneAfterTheOther) {
  TemporaryFolder folder;
  std::vector<std::string> made;
  auto pending = [&](const std::string& name, Dtype dtype) {
    return PendingTensor{name, dtype, {2}, [&made, name, dtype] {
                           made.push_back(name);
                           return at::ones({2}, dtype);
                         }};
  };
  save_safetensors(std::vector{pending("b", at::kFloat), pending("c", at::kHalf), pending("a", at::kFloat)}, {},
                   folder / "a.safetensors");
  EXPECT_EQ(made, (std::vector<std::string>{"a", "b", "c"})) << "in the order of the file";
  EXPECT_EQ(load_state_dict(folder / "a.safetensors").size(), 3u);
}

TEST(PendingTensors, MustBeWhatTheyWereAnnouncedAs) {
  TemporaryFolder folder;
  auto save = [&](std::vector<int64_t> shape, Dtype dtype) {
    save_safetensors(std::vector<PendingTensor>{{"a", dtype, shape, [] { return at::ones({2}); }}}, {},
                     folder / "a.safetensors");
  };
  for (auto message : {error_of(ErrorKind::usage, [&] { save({3}, at::kFloat); }),
                       error_of(ErrorKind::usage, [&] { save({2}, at::kHalf); })})
    EXPECT_NE(message.find("was announced as"), std::string::npos) << message;
  EXPECT_TRUE(folder.names().empty());
}

}  // namespace lora
