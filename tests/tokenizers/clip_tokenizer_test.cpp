#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <thread>

#include "core/text.h"
#include "lora/tokenizer.h"
#include "tokenizers/tokenizer_folder.h"

namespace lora {

using nlohmann::json;
using Ids = std::vector<int64_t>;

namespace {

json read_data(const std::string& name) {
  std::ifstream in(source_path("tests/data/tokenizers") / name);
  return json::parse(in);
}

// The reference's groups of cases, each for a variant of the tiny model's folder.
const json& groups() {
  static const json read = read_data("cases.json");
  return read;
}

const json& group(const std::string& name) {
  return *std::ranges::find_if(groups(), [&](const json& g) { return g.at("name") == name; });
}

void reverse_merges(const TokenizerFolder& folder) {
  auto lines = split(folder.read("merges.txt"), '\n');
  std::reverse(lines.begin() + 1, lines.end() - 1);  // between the version and the end
  folder.write("merges.txt", join(lines, "\n"));
}

void edit(const json& files, const TokenizerFolder& folder) {
  for (const auto& [name, content] : files.items()) {
    if (content.is_null())
      folder.remove(name);
    else if (content == "reversed")
      reverse_merges(folder);
    else
      folder.write(name, content);
  }
}

void expect_equal(const json& expected, const CLIPTokenizer& tokenizer) {
  for (const auto& c : expected.at("cases")) {
    auto text = c.at("text").get<std::string>();
    SCOPED_TRACE(c.at("text").dump());
    EXPECT_EQ(tokenizer.encode(text), c.at("ids").get<Ids>());
    EXPECT_EQ(tokenizer.encode_padded(text), c.at("padded").get<Ids>());
    EXPECT_EQ(tokenizer.truncated_part(text), c.at("truncated").get<std::string>());
    EXPECT_EQ(tokenizer.decode(c.at("ids").get<Ids>()), c.at("decoded").get<std::string>());
  }
  for (const auto& d : expected.at("decodings"))
    EXPECT_EQ(tokenizer.decode(d.at("ids").get<Ids>()), d.at("text").get<std::string>()) << d.at("ids").dump();
}

class Variant : public testing::TestWithParam<std::string> {};

std::vector<std::string> variant_names() {
  std::vector<std::string> names;
  for (const auto& g : groups()) names.push_back(g.at("name"));
  return names;
}

}  // namespace

TEST_P(Variant, EqualsTheReference) {
  const auto& expected = group(GetParam());
  TokenizerFolder folder;
  edit(expected.at("files"), folder);
  auto tokenizer = CLIPTokenizer::from_pretrained(folder.path());
  EXPECT_EQ(tokenizer.vocab_size(), expected.at("vocab_size"));
  auto limit = expected.at("model_max_length");
  EXPECT_EQ(tokenizer.model_max_length(), limit.is_null() ? std::numeric_limits<int64_t>::max() : limit.get<int64_t>());
  expect_equal(expected, tokenizer);
}

INSTANTIATE_TEST_SUITE_P(Reference, Variant, testing::ValuesIn(variant_names()),
                         [](const auto& test) { return test.param; });

TEST(CLIPTokenizer, ReadsTheOneFileForm) {
  TokenizerFolder folder;
  folder.write_tokenizer_json(read_data("tokenizer.json"));
  expect_equal(group("plain"), CLIPTokenizer::from_pretrained(folder.path()));
}

TEST(CLIPTokenizer, ReadsMergesWrittenAsStrings) {
  TokenizerFolder folder;
  auto tokenizer = read_data("tokenizer.json");
  for (auto& merge : tokenizer["model"]["merges"])
    merge = merge.at(0).get<std::string>() + " " + merge.at(1).get<std::string>();
  folder.write_tokenizer_json(tokenizer);
  expect_equal(group("plain"), CLIPTokenizer::from_pretrained(folder.path()));
}

TEST(CLIPTokenizer, PrefersTheOneFileFormAsTheReferenceDoes) {
  TokenizerFolder folder;
  folder.write("tokenizer.json", read_data("tokenizer.json"));
  folder.write("vocab.json", std::string("not read"));
  EXPECT_EQ(CLIPTokenizer::from_pretrained(folder.path()).encode("a cat").size(), 4u);
}

TEST(CLIPTokenizer, TakesFlagsOfAddedTokensFromTheOneFileForm) {
  TokenizerFolder folder;
  auto tokenizer = read_data("tokenizer.json");
  for (auto& token : tokenizer["added_tokens"]) token["normalized"] = true;
  folder.write_tokenizer_json(tokenizer);
  auto ids = CLIPTokenizer::from_pretrained(folder.path()).encode("<|EndOfText|>");
  EXPECT_EQ(ids, (Ids{5517, 5518, 5518}));
}

TEST(CLIPTokenizer, ReplacesInvalidBytes) {
  auto tokenizer = CLIPTokenizer::from_pretrained(source_path("models/tiny/tokenizer"));
  EXPECT_EQ(tokenizer.encode("a\xff"
                             "b\xe4\xb8"),
            tokenizer.encode("a\uFFFD"
                             "b\uFFFD"));
}

TEST(CLIPTokenizer, ReadsTextPastANullCharacter) {
  auto tokenizer = CLIPTokenizer::from_pretrained(source_path("models/tiny/tokenizer"));
  EXPECT_GT(tokenizer.encode(std::string("a\0cat", 5)).size(), tokenizer.encode("a").size());
}

TEST(CLIPTokenizer, ServesManyThreads) {
  auto tokenizer = CLIPTokenizer::from_pretrained(source_path("models/tiny/tokenizer"));
  auto expected = tokenizer.encode("A red fox, e\u0301toile \u0130!");
  std::vector<std::thread> threads;
  std::atomic<int> equal = 0;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&] {
      for (int j = 0; j < 50; ++j) equal += tokenizer.encode("A red fox, e\u0301toile \u0130!") == expected;
    });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(equal, 200);
}

}  // namespace lora
