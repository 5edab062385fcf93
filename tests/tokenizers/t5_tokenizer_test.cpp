#include "lora/t5_tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "tokenizers/tokenizer_folder.h"

namespace lora {

using nlohmann::json;
using testing::HasSubstr;
using Ids = std::vector<int64_t>;

namespace {

constexpr auto kFolder = "tests/data/tokenizers/t5";

json read_data(const std::string& name) {
  std::ifstream in(source_path(kFolder) / name);
  return json::parse(in);
}

// The tiny model in one of its two forms.
struct T5Folder : TokenizerFolder {
  explicit T5Folder(const std::string& form) : TokenizerFolder(kFolder) {
    remove("cases.json");
    remove(form == "spiece.model" ? "tokenizer.json" : "spiece.model");
  }

  T5Tokenizer open() const { return T5Tokenizer::from_pretrained(path()); }
  std::string error(ErrorKind kind) const { return TokenizerFolder::error<T5Tokenizer>(kind); }
};

// The reference's groups of cases, each for a variant of the folder.
const json& groups() {
  static const json read = read_data("cases.json");
  return read;
}

const json& group(const std::string& name) {
  return *std::ranges::find_if(groups(), [&](const json& g) { return g.at("name") == name; });
}

void expect_equal(const json& expected, const T5Tokenizer& tokenizer) {
  EXPECT_EQ(tokenizer.vocab_size(), expected.at("vocab_size"));
  for (const auto& c : expected.at("cases")) {
    auto text = c.at("text").get<std::string>();
    SCOPED_TRACE(c.at("text").dump());
    EXPECT_EQ(tokenizer.encode(text), c.at("ids").get<Ids>());
    EXPECT_EQ(tokenizer.encode_padded(text, 8), c.at("padded").get<Ids>());
    EXPECT_EQ(tokenizer.truncated_part(text, 8), c.at("truncated").get<std::string>());
    EXPECT_EQ(tokenizer.decode(c.at("ids").get<Ids>()), c.at("decoded").get<std::string>());
  }
  for (const auto& d : expected.at("decodings"))
    EXPECT_EQ(tokenizer.decode(d.at("ids").get<Ids>()), d.at("text").get<std::string>()) << d.at("ids").dump();
}

std::vector<std::string> variant_names() {
  std::vector<std::string> names;
  for (const auto& g : groups()) names.push_back(g.at("name"));
  return names;
}

class T5Variant : public testing::TestWithParam<std::string> {};

// tokenizer.json with a change.
struct EditedFolder : T5Folder {
  template <class Edit>
  explicit EditedFolder(Edit edit) : T5Folder("tokenizer.json") {
    auto tokenizer = read_data("tokenizer.json");
    edit(tokenizer);
    write("tokenizer.json", tokenizer);
  }
};

}  // namespace

// ---- Against the reference ------------------------------------------------------------------------------------------

TEST_P(T5Variant, EqualsTheReference) {
  const auto& expected = group(GetParam());
  const auto& files = expected.at("files");
  T5Folder folder(files.contains("tokenizer.json") ? "tokenizer.json" : "spiece.model");
  for (const auto& [name, content] : files.items()) {
    auto whole = name == "tokenizer.json" ? read_data(name) : json::object();
    whole.update(content);
    folder.write(name, whole);
  }
  expect_equal(expected, folder.open());
}

INSTANTIATE_TEST_SUITE_P(Reference, T5Variant, testing::ValuesIn(variant_names()),
                         [](const auto& test) { return test.param; });

TEST(T5Tokenizer, BothFormsGiveTheSameIds) {
  auto one = T5Folder("spiece.model").open(), other = T5Folder("tokenizer.json").open();
  for (const auto& c : group("spiece").at("cases")) {
    auto text = c.at("text").get<std::string>();
    EXPECT_EQ(one.encode(text), other.encode(text)) << text;
  }
}

TEST(T5Tokenizer, PadsTo256TokensUnlessAskedOtherwise) {
  auto tokenizer = T5Folder("spiece.model").open();
  auto ids = tokenizer.encode_padded("a cat");
  EXPECT_EQ(ids.size(), 256u);
  EXPECT_EQ(std::ranges::count(ids, tokenizer.eos_token_id()), 1);
  EXPECT_EQ(ids.back(), tokenizer.pad_token_id());
  EXPECT_EQ(tokenizer.encode_padded("a cat", 1), (Ids{tokenizer.eos_token_id()}));
  EXPECT_THROW(tokenizer.encode_padded("a cat", 0), Error);
  EXPECT_THROW(tokenizer.truncated_part("a cat", -1), Error);
}

TEST(T5Tokenizer, ReplacesInvalidBytes) {
  auto tokenizer = T5Folder("spiece.model").open();
  EXPECT_EQ(tokenizer.encode("a\xff"
                             "b\xe4\xb8"),
            tokenizer.encode("a\uFFFD"
                             "b\uFFFD"));
}

TEST(T5Tokenizer, SavesWhatItWasReadFrom) {
  for (const auto* form : {"spiece.model", "tokenizer.json"}) {
    T5Folder folder(form), copy(form);
    folder.write("tokenizer_config.json", {{"extra_ids", 10}});
    copy.remove(form);
    folder.open().save_pretrained(copy.path() / "deeper");
    EXPECT_EQ(T5Tokenizer::from_pretrained(copy.path() / "deeper").encode("a cat <extra_id_3>"),
              folder.open().encode("a cat <extra_id_3>"));
    EXPECT_EQ(copy.read(std::string("deeper/") + form), folder.read(form));
  }
}

TEST(T5Tokenizer, ServesManyThreads) {
  auto tokenizer = T5Folder("spiece.model").open();
  const std::string text = "Crème brûlée, \uFF21 \uFB01re <extra_id_7> xqz!";
  auto expected = tokenizer.encode(text);
  std::vector<std::thread> threads;
  std::atomic<int> equal = 0;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&] {
      for (int j = 0; j < 50; ++j) equal += tokenizer.encode(text) == expected;
    });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(equal, 200);
}

// ---- Folders that are not a tokenizer's -----------------------------------------------------------------------------

TEST(BadT5Tokenizer, NoFilesOfIt) {
  T5Folder folder("spiece.model");
  folder.remove("spiece.model");
  EXPECT_THAT(folder.error(ErrorKind::not_found), HasSubstr("tokenizer.json or spiece.model was expected"));
  std::filesystem::remove_all(folder.path());
  EXPECT_THAT(folder.error(ErrorKind::not_found), HasSubstr("no such folder"));
}

TEST(BadT5Tokenizer, OtherModels) {
  auto error = [](const char* key, const json& value) {
    return EditedFolder([&](json& t) { t["model"][key] = value; }).error(ErrorKind::unsupported);
  };
  EXPECT_THAT(error("type", "BPE"), HasSubstr("the model is of type BPE; T5's is Unigram"));
  EXPECT_THAT(error("unk_id", 0), HasSubstr("unk_id is 0; T5's is 2"));
  EXPECT_THAT(error("byte_fallback", true), HasSubstr("byte_fallback is true"));
  EditedFolder clip([](json& t) { t["model"] = {{"type", "BPE"}, {"vocab", {{"a", 0}}}, {"merges", json::array()}}; });
  EXPECT_THAT(clip.error(ErrorKind::unsupported), HasSubstr("of type BPE"));
}

TEST(BadT5Tokenizer, Vocabularies) {
  auto error = [](const char* vocab) {
    return EditedFolder([&](json& t) { t["model"]["vocab"] = json::parse(vocab); }).error(ErrorKind::bad_file);
  };
  EXPECT_THAT(error("[]"), HasSubstr("has 0 tokens; at least 3 were expected"));
  EXPECT_THAT(error(R"([["a"]])"), HasSubstr("token 0: a text and its score were expected"));
  EXPECT_THAT(error(R"([["a", 0, 1]])"), HasSubstr("token 0: a text and its score were expected"));
  EXPECT_THAT(error(R"([["a", "b"]])"), HasSubstr("a number was expected"));
  EXPECT_THAT(error(R"([["a", 0], ["b", 0], ["c", 0], ["a", 0]])"), HasSubstr("the token `a` occurs twice"));
}

TEST(BadT5Tokenizer, MapsOfCharacters) {
  auto error = [](const std::string& map) {
    return EditedFolder([&](json& t) { t["normalizer"]["precompiled_charsmap"] = map; }).error(ErrorKind::bad_file);
  };
  EXPECT_THAT(error("AA"), HasSubstr("cut short"));
  EXPECT_THAT(error("/////w=="), HasSubstr("cut short"));
  EXPECT_THAT(error("A A"), HasSubstr("not in base 64"));
}

TEST(BadT5Tokenizer, ADamagedMapLeadsNowhereElse) {
  auto map = read_data("tokenizer.json")["normalizer"]["precompiled_charsmap"].get<std::string>();
  for (size_t at = 8; at < map.size(); at += map.size() / 40) {
    EditedFolder folder([&](json& t) {
      auto damaged = map;
      damaged[at] = damaged[at] == '/' ? 'A' : '/';
      t["normalizer"]["precompiled_charsmap"] = damaged;
    });
    auto tokenizer = folder.open();
    for (const auto& c : group("spiece_listed_tokens").at("cases"))
      EXPECT_FALSE(tokenizer.encode(c.at("text").get<std::string>()).empty());
  }
}

TEST(BadT5Tokenizer, SentencePieceModelsCutAnywhere) {
  T5Folder folder("spiece.model");
  auto whole = folder.read("spiece.model");
  for (size_t size : {0u, 1u, 5u, 12u, 100u, 5000u, 20000u, 30000u}) {
    folder.write("spiece.model", whole.substr(0, size));
    try {
      folder.open();
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::bad_file) << e.what();
    }
  }
  folder.write("spiece.model", std::string("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"));
  EXPECT_THAT(folder.error(ErrorKind::bad_file), HasSubstr("not a protocol buffer"));
}

TEST(BadT5Tokenizer, SettingsOutOfRange) {
  T5Folder folder("spiece.model");
  for (const json& count : {json(-1), json("many"), json(1 << 20)}) {
    folder.write("tokenizer_config.json", {{"extra_ids", count}});
    EXPECT_THAT(folder.error(ErrorKind::bad_file), HasSubstr("extra_ids is " + count.dump()));
  }
  folder.write("tokenizer_config.json", {{"padding_side", "left"}});
  EXPECT_THAT(folder.error(ErrorKind::unsupported), HasSubstr("only right is supported"));
}

}  // namespace lora
