// Compares added words with transformers and diffusers (tools/reference/make_embeddings.py).
#include <gtest/gtest.h>

#include <algorithm>

#include "lora/t5_tokenizer.h"
#include "tokenizers/tokenizer_folder.h"

namespace lora {

using nlohmann::json;
using Ids = std::vector<int64_t>;

namespace {

json reference(const std::string& tokenizer) {
  return json::parse(std::ifstream(source_path("tests/data/embeddings/words.json"))).at(tokenizer);
}

std::vector<AddedWord> words(const json& data) {
  std::vector<AddedWord> all;
  for (const auto& word : data.at("words")) all.push_back({word.at("text"), word.at("ids")});
  return all;
}

CLIPTokenizer clip() { return CLIPTokenizer::from_pretrained(source_path("models/tiny/tokenizer")); }
T5Tokenizer t5() { return T5Tokenizer::from_pretrained(source_path("tests/data/tokenizers/t5")); }

template <class Tokenizer>
void expect_as_the_reference(const Tokenizer& tokenizer, const json& data) {
  auto with_words = tokenizer.with_words(words(data));
  for (const auto& c : data.at("cases"))
    EXPECT_EQ(with_words.encode(c.at("text").get<std::string>()), c.at("ids").get<Ids>()) << c.at("text");
}

std::string refusal(const std::vector<AddedWord>& added, ErrorKind kind) {
  try {
    clip().with_words(added);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    return error.what();
  }
  return "";
}

bool has(const Ids& ids, int64_t id) { return std::ranges::count(ids, id) > 0; }

}  // namespace

TEST(Words, HaveTheReferencesIds) {
  expect_as_the_reference(clip(), reference("clip"));
  expect_as_the_reference(t5(), reference("t5"));
}

TEST(Words, LeaveTheTokenizerAsItWas) {
  auto tokenizer = clip();
  auto before = tokenizer.encode("a qzv cat");
  auto with_words = tokenizer.with_words({{"qzv", {6000, 6001}}});
  EXPECT_NE(with_words.encode("a qzv cat"), before);
  EXPECT_EQ(tokenizer.encode("a qzv cat"), before);
  EXPECT_EQ(tokenizer.with_words({}).encode("a qzv cat"), before);
  EXPECT_EQ(with_words.with_words({{"kwx", {6002}}}).encode("qzv kwx").size(), 5);  // both, begin and end
}

TEST(Words, AreDecodedAndCutLikeTokens) {
  auto with_words = clip().with_words({{"qzv", {6000, 6001}}});
  EXPECT_EQ(with_words.decode({6000, 6001}), "qzvqzv_1");
  std::string many, rest;
  for (int i = 0; i < 40; ++i) many += "qzv ";
  EXPECT_EQ(with_words.encode_padded(many).size(), with_words.model_max_length());
  for (auto i = with_words.model_max_length() - 2; i < 2 * 40; ++i) rest += i % 2 ? "qzv_1" : "qzv";
  EXPECT_EQ(with_words.truncated_part(many), rest);
}

// The vocabulary's own word is also inside other words: "cat" is in "concatenate".
TEST(Words, OfTheVocabularyCountWhereTheyStandAlone) {
  auto cat = clip().with_words({{"Cat", {6000, 6001}}});
  auto cats = [&](const std::string& text) { return std::ranges::count(cat.encode(text), 6000); };
  EXPECT_EQ(cats("a cat, CAT's cat."), 3);
  EXPECT_EQ(cats("concatenate cats"), 0);
  EXPECT_TRUE(has(cat.encode("the cat_1"), 6001));

  auto owl = t5().with_words({{"cat", {1000}}});
  EXPECT_TRUE(has(owl.encode("a cat"), 1000));
  EXPECT_FALSE(has(owl.encode("concatenate"), 1000));
}

TEST(Words, ThatCannotBeToldApartAreRefused) {
  EXPECT_NE(refusal({{"qzv", {6000}}, {"QZV", {6001}}}, ErrorKind::conflict).find("\"QZV\""), std::string::npos);
  EXPECT_NE(refusal({{"qzv", {6000, 6001}}, {"qzv_1", {6002}}}, ErrorKind::conflict).find("qzv_1"), std::string::npos);
  EXPECT_NE(refusal({{"<|endoftext|>", {6000}}}, ErrorKind::conflict).find("special"), std::string::npos);
  EXPECT_NE(refusal({{" \t", {6000}}}, ErrorKind::usage), "");
  EXPECT_NE(refusal({{"qzv", {}}}, ErrorKind::usage), "");
  EXPECT_NO_THROW(t5().with_words({{"qzv", {1000}}, {"QZV", {1001}}}));
}

}  // namespace lora
