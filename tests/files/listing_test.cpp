#include <gmock/gmock.h>
#include <unistd.h>

#include <nlohmann/json.hpp>
#include <thread>

#include "core/columns.h"
#include "core/text.h"
#include "files/lora_files.h"
#include "io/json_file.h"
#include "lora/lora_folder.h"

namespace lora {

namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Pair;
using testing::SizeIs;
using testing::StartsWith;

const std::string kDigest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

// Long enough ago for the cache to believe that nothing changes in the same tick of the clock.
void make_old(const fs::path& file, std::chrono::seconds age = 1h) {
  fs::last_write_time(file, fs::file_time_type::clock::now() - age);
}

// A LoRA of one layer that any base model could have.
StateDict small(int64_t rank = 4, std::map<std::string, std::string> metadata = {}) {
  StateDict file{{"unet.mid_block.x.lora_A.weight", at::ones({rank, 8})},
                 {"unet.mid_block.x.lora_B.weight", at::ones({8, rank})}};
  file.metadata = std::move(metadata);
  return file;
}

void save(const StateDict& file, const fs::path& path) {
  save_safetensors(file, path);
  make_old(path);
}

ListedLora only(const fs::path& folder, const ListLorasOptions& options = {}) {
  auto list = list_loras(folder, options);
  EXPECT_THAT(list.loras, SizeIs(1)) << list.text();
  return list.loras.empty() ? ListedLora() : list.loras.front();
}

std::string verdict(const StateDict& file) {
  TemporaryFolder folder;
  save(file, folder / "a.safetensors");
  return only(folder.path()).verdict;
}

std::vector<std::string> names(const LoraList& list) {
  std::vector<std::string> all;
  for (const auto& lora : list.loras) all.push_back(lora.name);
  return all;
}

}  // namespace

TEST(ListLoras, ARowSaysWhatTheFileIs) {
  TemporaryFolder folder;
  fs::create_directory(folder / "style");
  auto file = kohya_sd15();
  file.metadata = {{"ss_base_model_version", "sd_v1"},
                   {"ss_network_module", "networks.lora"},
                   {"ss_output_name", "ink_v2"},
                   {"modelspec.title", "Ink"},
                   {"modelspec.trigger_phrase", " ink drawing "},
                   {"sshs_model_hash", kDigest},
                   {"ss_tag_frequency", R"({"10_a": {"ink ": 3, "cat": 9}, "2_b": {"ink": 8, "x": -1, "y": "2"}})"}};
  save(file, folder / "style/ink.safetensors");
  auto row = only(folder.path());
  EXPECT_EQ(row.file, folder / "style/ink.safetensors");
  EXPECT_EQ(row.name, "style/ink");
  EXPECT_EQ(row.size, fs::file_size(row.file));
  EXPECT_LT(std::chrono::abs(std::chrono::system_clock::now() - 1h - row.modified), 1min);
  EXPECT_EQ(row.layers, 192u);
  EXPECT_EQ(row.base_model, BaseModel::sd1);
  EXPECT_EQ(row.kind, "LoRA");
  EXPECT_EQ(row.dialect, "kohya");
  EXPECT_EQ(row.trainer, "kohya's sd-scripts (networks.lora)");
  EXPECT_EQ(row.min_rank, 1);
  EXPECT_EQ(row.max_rank, 1);
  EXPECT_EQ(row.title, "Ink");
  EXPECT_EQ(row.output_name, "ink_v2");
  EXPECT_EQ(row.trigger_phrase, "ink drawing");
  EXPECT_THAT(row.tags, ElementsAre(Pair("ink", 11u), Pair("cat", 9u)));
  EXPECT_EQ(row.hash, kDigest);
  EXPECT_EQ(row.hash_from, "metadata");
  EXPECT_EQ(row.verdict, "fits");
  EXPECT_EQ(row.error, "");
}

// Nothing of it depends on the numbers, which the list does not read.
TEST(ListLoras, SaysTheSameAsInspect) {
  TemporaryFolder folder;
  size_t compared = 0;
  for (const auto& file : readable_files()) {
    if (fs::exists(file.parent_path() / "adapter_config.json")) continue;  // it would stand beside all others
    fs::create_symlink(file, folder / fmt::format("{:03}.safetensors", compared));
    auto row = only(folder.path());
    fs::remove(folder / fmt::format("{:03}.safetensors", compared++));
    auto wanted = inspect_lora(file);
    EXPECT_EQ(row.layers, wanted.layers.size()) << file;
    EXPECT_EQ(to_string(row.base_model), wanted.architecture) << file;
    EXPECT_EQ(row.known_by, wanted.known_by) << file;
    EXPECT_EQ(row.kind, wanted.algorithm) << file;
    EXPECT_EQ(row.dialect, wanted.dialect) << file;
    EXPECT_EQ(row.trainer, wanted.trainer) << file;
    int64_t most = 0;
    for (const auto& layer : wanted.layers) most = std::max(most, layer.rank);
    EXPECT_EQ(row.max_rank, most) << file;
    EXPECT_EQ(row.error, "") << file;
    if (wanted.problems() == 0) {
      EXPECT_THAT(row.verdict, testing::AnyOf("fits", "not compared", "unknown base")) << file;
    }
  }
  EXPECT_GT(compared, 30u);
}

TEST(ListLoras, VerdictsSayNoMoreThanWasRead) {
  auto sound = kohya_sd15();
  EXPECT_EQ(verdict(sound), "fits");
  auto numbers = sound;  // a fault that only the numbers have
  scale(numbers, numbers.begin()->first, NAN);
  EXPECT_EQ(verdict(numbers), "fits");
  auto strange = sound;
  strange.set("lora_unet_down_blocks_9_attentions_0_proj_in.lora_down.weight", at::ones({1, 320}));
  strange.set("lora_unet_down_blocks_9_attentions_0_proj_in.lora_up.weight", at::ones({320, 1}));
  EXPECT_EQ(verdict(strange), "problem: 1 layer does not exist in SD 1.5's UNet");
  auto half = sound;
  half.set("lora_unet_down_blocks_0_resnets_0_conv1.lora_down.weight", at::ones({1, 320, 3, 3}));
  EXPECT_EQ(verdict(half), "problem: 1 layer has one half of a pair of factors");
  auto part = sound;
  part.set("lora_unet_mid_block_attentions_0_proj_in.tlora_p", at::ones({1}));
  EXPECT_EQ(verdict(part), "in part: 1 key not understood");
  auto ranked = sound;  // of which a load takes every layer
  const auto first = sound.begin()->first;
  ranked.set(first.substr(0, first.find('.')) + ".rank", at::ones({1}));
  EXPECT_EQ(verdict(ranked), "fits");
  auto contradicted = sound;
  contradicted.metadata["ss_base_model_version"] = "sdxl_base_v1-0";
  EXPECT_THAT(verdict(contradicted), StartsWith("problem: the layers contradict the metadata, which says SDXL"));
  EXPECT_EQ(verdict(small()), "unknown base");
  EXPECT_EQ(verdict({{"model.diffusion_model.input_blocks.0.0.weight", at::ones({4, 4})}}),
            "not a LoRA: a whole checkpoint");
  EXPECT_EQ(verdict({{"emb_params", at::ones({4, 768})}}), "not a LoRA: a textual inversion embedding");
  EXPECT_EQ(verdict({{"something", at::ones({4})}}), "not a LoRA: its first key is something");
  EXPECT_EQ(verdict({}), "not a LoRA: no tensors");
  EXPECT_THAT(verdict({{"lora_unet_mid_block_attentions_0_proj_in.tlora_p", at::ones({1})}}),
              StartsWith("cannot be loaded: holds an adapter of a kind that is not known here"));
}

TEST(ListLoras, BrokenFilesHaveARowAndTheRestIsListed) {
  TemporaryFolder folder;
  save(small(), folder / "b.safetensors");
  folder.write("a.safetensors", "");
  folder.write("c.safetensors", "<!doctype html><title>Not found</title>");
  folder.write("d.bin", "version https://git-lfs.github.com/spec/v1\n");
  folder.write("e.pt", "\x80\x02junk");
  folder.write("notes.txt", "no weights");
  fs::create_symlink(folder / "nowhere", folder / "f.safetensors");
  auto list = list_loras(folder.path());
  ASSERT_THAT(names(list), ElementsAre("a", "b", "c", "d", "e"));
  EXPECT_EQ(list.loras[0].verdict, "cannot be read: is empty");
  EXPECT_THAT(list.loras[0].error, HasSubstr("fetch it again"));
  EXPECT_EQ(list.loras[1].verdict, "unknown base");
  EXPECT_EQ(list.loras[2].verdict, "cannot be read: is a web page, which says \"Not found\"");
  EXPECT_THAT(list.loras[3].verdict, StartsWith("cannot be read: is a Git LFS pointer"));
  EXPECT_THAT(list.loras[4].verdict, StartsWith("cannot be read: "));
  ASSERT_THAT(list.notes, SizeIs(1));
  EXPECT_THAT(list.notes[0], HasSubstr("f.safetensors: is not a file"));
}

TEST(ListLoras, PicklesAreReadAsOtherFiles) {
  TemporaryFolder folder;
  save_pickle(kohya_sd15(), folder / "a.pt");
  fs::copy(test_data() / "lora/files/kohya.pt", folder / "b.pt");
  auto list = list_loras(folder.path());
  ASSERT_THAT(list.loras, SizeIs(2));
  EXPECT_EQ(list.loras[0].verdict, "fits");
  EXPECT_EQ(list.loras[0].layers, 192u);
  auto wanted = inspect_lora(folder / "b.pt");
  EXPECT_EQ(list.loras[1].layers, wanted.layers.size());
  EXPECT_EQ(list.loras[1].kind, wanted.algorithm);
  EXPECT_EQ(to_string(list.loras[1].base_model), wanted.architecture);
}

// PEFT's config beside a file is a part of what it is, also in the cache.
TEST(ListLoras, ReadsPeftsConfigBesideTheFile) {
  TemporaryFolder folder, place;
  fs::copy(test_data() / "lora/files/peft_folder", folder.path(), fs::copy_options::recursive);
  ListLorasOptions options{.cache = place / "cache"};
  for (const auto& entry : fs::recursive_directory_iterator(folder.path()))
    if (entry.is_regular_file()) make_old(entry.path());
  auto list = list_loras(folder.path(), options);
  ASSERT_FALSE(list.loras.empty());
  for (const auto& lora : list.loras) EXPECT_EQ(lora.error, "") << lora.name;
  auto config = list.loras.front().file.parent_path() / "adapter_config.json";
  std::ofstream(config) << R"({"peft_type": "VERA"})";
  EXPECT_THAT(list_loras(folder.path(), options).loras.front().verdict,
              HasSubstr("adapter_config.json: peft_type is VERA"));
}

TEST(ListLoras, SortsAndFilters) {
  TemporaryFolder folder;
  save(small(16), folder / "b.safetensors");
  save(kohya_sd15(), folder / "A.safetensors");
  folder.write("c.safetensors", "x");
  make_old(folder / "A.safetensors", 3h);
  make_old(folder / "c.safetensors", 2h);
  auto sorted = [&](LoraOrder order) { return names(list_loras(folder.path(), {.sort = order})); };
  EXPECT_THAT(sorted(LoraOrder::name), ElementsAre("A", "b", "c"));
  EXPECT_THAT(sorted(LoraOrder::base), ElementsAre("A", "b", "c"));
  EXPECT_THAT(sorted(LoraOrder::rank), ElementsAre("b", "A", "c"));
  EXPECT_THAT(sorted(LoraOrder::date), ElementsAre("b", "c", "A"));
  EXPECT_THAT(sorted(LoraOrder::size), ElementsAre("A", "b", "c"));
  for (auto order : {LoraOrder::name, LoraOrder::rank, LoraOrder::date}) {
    EXPECT_THAT(names(list_loras(folder.path(), {.base_models = {BaseModel::sd1}, .sort = order})), ElementsAre("A"));
    EXPECT_THAT(names(list_loras(folder.path(), {.base_models = {BaseModel::sdxl, BaseModel::sd1}, .sort = order})),
                ElementsAre("A"));
    EXPECT_THAT(list_loras(folder.path(), {.base_models = {BaseModel::sdxl}, .sort = order}).loras, IsEmpty());
  }
}

TEST(ListLoras, HashesOnlyWhatStatesNoHash) {
  TemporaryFolder folder, place;
  save(small(4, {{"sshs_model_hash", kDigest}}), folder / "a.safetensors");
  save(small(4, {{"sshs_model_hash", "0x" + kDigest}}), folder / "b.safetensors");
  folder.write("c.safetensors", "x");
  save_pickle(small(), folder / "d.pt");
  make_old(folder / "d.pt");
  ListLorasOptions options{.cache = place / "cache"};
  auto hashes = [&](bool hash) {
    options.hash = hash;
    std::vector<std::pair<std::string, std::string>> all;
    for (const auto& lora : list_loras(folder.path(), options).loras) all.emplace_back(lora.hash, lora.hash_from);
    return all;
  };
  const auto of_data = hash_file(folder / "b.safetensors").data, of_file = hash_file(folder / "d.pt").file;
  EXPECT_THAT(hashes(false), ElementsAre(Pair(kDigest, "metadata"), Pair("", ""), Pair("", ""), Pair("", "")));
  auto computed = ElementsAre(Pair(kDigest, "metadata"), Pair(of_data, "file"), Pair("", ""), Pair(of_file, "file"));
  EXPECT_THAT(hashes(true), computed);
  EXPECT_THAT(hashes(false), computed);  // from the cache
}

// What the cache says is believed, so that a cache with other words shows what was read again.
TEST(ListLoras, TheCacheKeepsWhatDidNotChange) {
  TemporaryFolder folder, other, place;
  const auto cache = place / "deep/er/cache";
  save(small(4), folder / "a.safetensors");
  save(small(5), folder / "b.safetensors");
  save(small(6), other / "c.safetensors");
  auto ranks = [&](const fs::path& where) {
    std::vector<int64_t> all;
    auto list = list_loras(where, {.cache = cache});
    EXPECT_THAT(list.notes, IsEmpty());
    for (const auto& lora : list.loras) all.push_back(lora.max_rank);
    return all;
  };
  EXPECT_THAT(ranks(folder.path()), ElementsAre(4, 5));
  EXPECT_THAT(ranks(other.path()), ElementsAre(6));
  auto kept = json::from_cbor(read_text(cache));
  ASSERT_EQ(kept["files"].size(), 3u);
  for (auto& [file, entry] : kept["files"].items()) entry["row"]["max_rank"] = 99;
  auto bytes = json::to_cbor(kept);
  write_text(cache, {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  EXPECT_THAT(ranks(folder.path()), ElementsAre(99, 99));
  EXPECT_THAT(ranks(folder.path() / "."), ElementsAre(99, 99));

  save(small(7), folder / "a.safetensors");  // another size
  EXPECT_THAT(ranks(folder.path()), ElementsAre(7, 99));
  auto time = fs::last_write_time(folder / "b.safetensors");
  save_safetensors(small(5), folder / "b.safetensors");  // the same size, another time
  fs::last_write_time(folder / "b.safetensors", time + 1ns);
  EXPECT_THAT(ranks(folder.path()), ElementsAre(7, 5));
  EXPECT_THAT(ranks(other.path()), ElementsAre(99));

  fs::remove(folder / "a.safetensors");
  EXPECT_THAT(ranks(folder.path()), ElementsAre(5));
  EXPECT_EQ(json::from_cbor(read_text(cache))["files"].size(), 2u);
}

// A file can change twice in one tick of the file system's clock.
TEST(ListLoras, TheCacheDoesNotKeepWhatIsTooNew) {
  TemporaryFolder folder, place;
  for (int64_t rank : {4, 5, 6}) {
    auto file = small(8);
    file.metadata["modelspec.title"] = std::to_string(rank);
    save_safetensors(file, folder / "a.safetensors");
    EXPECT_EQ(only(folder.path(), {.cache = place / "cache"}).title, std::to_string(rank));
  }
  EXPECT_FALSE(fs::exists(place / "cache"));
}

TEST(ListLoras, ABrokenCacheIsANoteAndIsMadeAnew) {
  TemporaryFolder folder, place;
  save(small(), folder / "a.safetensors");
  const auto cache = place / "cache";
  for (std::string bytes : {"", "x", "\xa2\x64head", "{\"head\": 1}"}) {
    place.write("cache", bytes);
    auto list = list_loras(folder.path(), {.cache = cache});
    EXPECT_THAT(names(list), ElementsAre("a"));
    ASSERT_THAT(list.notes, SizeIs(1)) << bytes;
    EXPECT_THAT(list.notes[0], HasSubstr("cache: is no cache of LoRAs")) << bytes;
    EXPECT_THAT(list_loras(folder.path(), {.cache = cache}).notes, IsEmpty());
  }
  // Rows that are none are read again. Another version's cache is no fault.
  auto kept = json::from_cbor(read_text(cache));
  auto rewrite = [&](const json& all) {
    auto bytes = json::to_cbor(all);
    write_text(cache, {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  };
  auto odd = kept;
  for (auto& [file, entry] : odd["files"].items()) entry["row"] = {{"layers", "many"}};
  for (auto all : {odd, json{{"head", {{"format", 0}}}, {"files", json::object()}}}) {
    rewrite(all);
    auto list = list_loras(folder.path(), {.cache = cache});
    EXPECT_EQ(list.loras.front().max_rank, 4);
    EXPECT_THAT(list.notes, IsEmpty());
    EXPECT_EQ(json::from_cbor(read_text(cache)), kept);
  }
}

TEST(ListLoras, ACacheThatCannotBeWrittenIsANote) {
  TemporaryFolder folder, place;
  save(small(), folder / "a.safetensors");
  place.write("file", "x");
  auto list = list_loras(folder.path(), {.cache = place / "file/cache"});  // a file where a folder is wanted
  EXPECT_THAT(names(list), ElementsAre("a"));
  ASSERT_FALSE(list.notes.empty());
  EXPECT_THAT(list.notes.back(), HasSubstr("the cache cannot be written"));
}

TEST(ListLoras, SeveralAtOnceLeaveAWholeCache) {
  TemporaryFolder folders[4], place;
  for (auto& folder : folders)
    for (int i = 0; i < 20; ++i) save(small(i + 1), folder / (std::to_string(i) + ".safetensors"));
  const auto cache = place / "cache";
  {
    std::vector<std::jthread> threads;
    for (auto& folder : folders)
      threads.emplace_back([&] {
        for (int i = 0; i < 5; ++i) EXPECT_THAT(list_loras(folder.path(), {.cache = cache}).loras, SizeIs(20));
      });
  }
  for (auto& folder : folders) {
    auto list = list_loras(folder.path(), {.cache = cache});
    EXPECT_THAT(list.notes, IsEmpty());
    for (const auto& lora : list.loras) EXPECT_EQ(std::to_string(lora.max_rank - 1), lora.name);
  }
  EXPECT_THAT(place.names(), ElementsAre("cache"));  // nothing temporary is left
}

TEST(ListLoras, EmptyAndMissingFolders) {
  TemporaryFolder folder;
  auto list = list_loras(folder.path());
  EXPECT_THAT(list.loras, IsEmpty());
  EXPECT_EQ(list.json(), "[]");
  EXPECT_THAT(list.text(), StartsWith("name"));
  folder.write("a.safetensors", "x");
  EXPECT_THAT(error_of(ErrorKind::not_found, [&] { list_loras(folder / "none"); }), HasSubstr("no such folder"));
  EXPECT_THAT(error_of(ErrorKind::not_found, [&] { list_loras(folder / "a.safetensors"); }),
              HasSubstr("is a file; wanted a folder"));
}

TEST(ListLoras, AProgressThatThrowsStopsTheCall) {
  TemporaryFolder folder;
  save(small(), folder / "a.safetensors");
  save(small(), folder / "b.safetensors");
  int last = 0;
  ListLorasOptions options{.progress = [&](int done, int total) {
    EXPECT_EQ(total, 2);
    last = done;
  }};
  list_loras(folder.path(), options);
  EXPECT_EQ(last, 2);
  options.progress = [](int, int) { throw 7; };
  EXPECT_THROW(list_loras(folder.path(), options), int);
}

TEST(ListLoras, TheTableIsAlignedAndCutToTheTerminal) {
  TemporaryFolder folder;
  save(small(4, {{"modelspec.trigger_phrase", "水彩 style\n\x1b[31m"}}), folder / "水彩画.safetensors");
  save(small(16), folder / (std::string(60, 'n') + "\n.safetensors"));
  save(kohya_sd15(), folder / "b.safetensors");
  auto list = list_loras(folder.path());
  auto lines = split(list.text(), '\n');
  ASSERT_EQ(lines.size(), 5u);  // the last is empty
  EXPECT_THAT(lines[0], testing::MatchesRegex("name +base +kind +rank +trainer +hash +verdict +trigger words"));
  auto column_of = [](const std::string& line, const std::string& word) {
    return columns_of(line.substr(0, line.find(word)));
  };
  EXPECT_EQ(column_of(lines[1], "SD 1.x"), column_of(lines[0], "base"));
  EXPECT_EQ(column_of(lines[2], "16"), column_of(lines[0], "rank"));
  EXPECT_EQ(column_of(lines[3], "unknown base"), column_of(lines[0], "verdict"));
  EXPECT_THAT(lines[2], StartsWith(std::string(60, 'n') + "\\n "));
  EXPECT_THAT(lines[3], testing::EndsWith("水彩 style\\n\\x1b[31m"));
  for (size_t columns : {80, 100, 120}) {
    auto cut = split(list.text(columns), '\n');
    for (const auto& line : cut) EXPECT_LE(columns_of(line), columns) << line;
    EXPECT_THAT(cut[2], HasSubstr("n…")) << columns;
  }
  EXPECT_EQ(list.text(1000), list.text());
}

TEST(ListLoras, JsonHasEveryField) {
  TemporaryFolder folder;
  save(small(4, {{"ss_tag_frequency", R"({"a": {"cat": 2}})"}}), folder / "a\xff\n.safetensors");
  auto lora = list_loras(folder.path()).loras.at(0);
  auto rows = json::parse(list_loras(folder.path()).json());
  ASSERT_EQ(rows.size(), 1u);
  const auto& row = rows[0];
  EXPECT_EQ(row["path"], folder.path().string() + "/a\\xff\n.safetensors");
  EXPECT_EQ(row["name"], "a\\xff\n");
  EXPECT_EQ(row["size"], lora.size);
  EXPECT_THAT(row["modified"].get<std::string>(), testing::MatchesRegex("20..-..-..T..:..:..Z"));
  EXPECT_EQ(row["layers"], 1);
  EXPECT_EQ(row["base"], "");
  EXPECT_EQ(row["architecture"], "");
  EXPECT_EQ(row["kind"], "LoRA");
  EXPECT_EQ(row["min_rank"], 4);
  EXPECT_EQ(row["max_rank"], 4);
  EXPECT_EQ(row["tags"], json({{{"tag", "cat"}, {"count", 2}}}));
  EXPECT_EQ(row["verdict"], "unknown base");
  for (auto field :
       {"known_by", "dialect", "trainer", "title", "output_name", "trigger_phrase", "hash", "hash_from", "error"})
    EXPECT_TRUE(row.at(field).is_string()) << field;
}

TEST(ListLoras, OddMetadataIsNoFault) {
  for (auto tags : {"", "[]", "no json", "{\"a\": [1]}", "{\"a\": {\"b\": {\"c\": 1}}}", "{\"a\": {\"\": 4}}"}) {
    TemporaryFolder folder;
    save(small(4, {{"ss_tag_frequency", tags}, {"sshs_model_hash", "short"}, {"modelspec.title", " \n"}}),
         folder / "a.safetensors");
    auto row = only(folder.path());
    EXPECT_THAT(row.tags, IsEmpty()) << tags;
    EXPECT_EQ(row.hash, "");
    EXPECT_EQ(row.title, "");
  }
}

TEST(FindLora, FindsByTheNameInTheMetadata) {
  TemporaryFolder folder, place;
  save(small(4, {{"ss_output_name", "ink_v2"}, {"modelspec.title", "Ink Lines"}}), folder / "a.safetensors");
  save(small(4, {{"ss_output_name", "neon"}}), folder / "b.safetensors");
  save(small(4, {{"modelspec.title", "neon"}}), folder / "c.safetensors");
  save(small(4, {{"ss_output_name", "a"}}), folder / "d.safetensors");
  fs::create_symlink(folder / "a.safetensors", folder / "e.safetensors");
  save({{"something", at::ones({4})}}, folder / "f.safetensors");
  const auto cache = place / "cache";
  for (int run = 0; run < 2; ++run) {
    EXPECT_EQ(find_lora(folder.path(), "ink_v2", cache).file, folder / "a.safetensors");
    EXPECT_EQ(find_lora(folder.path(), "Ink Lines", cache).file, folder / "a.safetensors");
    EXPECT_EQ(find_lora(folder.path(), "a", cache).file, folder / "a.safetensors");  // the name of a file goes first
    auto said = error_of(ErrorKind::usage, [&] { find_lora(folder.path(), "neon", cache); });
    EXPECT_THAT(said, HasSubstr("b.safetensors, c.safetensors"));
    said = error_of(ErrorKind::not_found, [&] { find_lora(folder.path(), "ink_v3", cache); });
    EXPECT_THAT(said, HasSubstr("did you mean \"ink_v2\"?"));
    error_of(ErrorKind::not_found, [&] { find_lora(folder.path(), "", cache); });
  }
  EXPECT_TRUE(fs::exists(cache));
}

TEST(ListLoras, TheCommandsCacheIsInTheUsersFolderOfCaches) {
  const char* before = std::getenv("XDG_CACHE_HOME");
  const std::string kept = before ? before : "";
  ::setenv("XDG_CACHE_HOME", "/some/where", 1);
  EXPECT_EQ(lora_list_cache(), "/some/where/lora.cpp/loras.cbor");
  ::unsetenv("XDG_CACHE_HOME");
  EXPECT_THAT(lora_list_cache().string(), testing::EndsWith("/.cache/lora.cpp/loras.cbor"));
  if (before) ::setenv("XDG_CACHE_HOME", kept.c_str(), 1);
}

}  // namespace lora
