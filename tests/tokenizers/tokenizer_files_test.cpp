// Folders that are not a tokenizer's, and the messages about them.
#include "tokenizers/tokenizer_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/text.h"
#include "tokenizers/tokenizer_folder.h"

namespace lora {

using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;

namespace {

json vocab(const TokenizerFolder& folder) { return json::parse(folder.read("vocab.json")); }

// Changes a member of tokenizer_config.json. Removes special_tokens_map.json, which would count more.
void configure(const TokenizerFolder& folder, const std::string& key, const json& value) {
  auto config = json::parse(folder.read("tokenizer_config.json"));
  config[key] = value;
  folder.write("tokenizer_config.json", config);
  folder.remove("special_tokens_map.json");
}

json one_file() {
  std::ifstream in(source_path("tests/data/tokenizers/tokenizer.json"));
  return json::parse(in);
}

}  // namespace

TEST(BadTokenizer, NoFolder) {
  TokenizerFolder folder;
  std::filesystem::remove_all(folder.path());
  EXPECT_EQ(folder.error(ErrorKind::not_found),
            folder.path().string() + ": no such folder; a tokenizer's folder was expected");
}

TEST(BadTokenizer, EmptyFolder) {
  TokenizerFolder folder;
  folder.remove("vocab.json");
  folder.remove("merges.txt");
  EXPECT_THAT(folder.error(ErrorKind::not_found),
              HasSubstr("does not have a tokenizer: tokenizer.json, or vocab.json and merges.txt, were expected"));
}

TEST(BadTokenizer, HalfOfTheFiles) {
  TokenizerFolder without_merges, without_vocab;
  without_merges.remove("merges.txt");
  EXPECT_THAT(without_merges.error(ErrorKind::not_found), HasSubstr("merges.txt: no such file, but vocab.json exists"));
  without_vocab.remove("vocab.json");
  EXPECT_THAT(without_vocab.error(ErrorKind::not_found), HasSubstr("vocab.json: no such file, but merges.txt exists"));
}

TEST(BadTokenizer, VocabularyCutAnywhere) {
  TokenizerFolder folder;
  auto text = folder.read("vocab.json");
  for (size_t size : {size_t{0}, size_t{1}, size_t{7}, text.size() / 2, text.size() - 3, text.size() - 1}) {
    folder.write("vocab.json", text.substr(0, size));
    EXPECT_THAT(folder.error(ErrorKind::bad_file), HasSubstr("vocab.json: malformed JSON at byte")) << size;
  }
}

TEST(BadTokenizer, VocabularyOfAnotherKind) {
  TokenizerFolder folder;
  for (const char* text : {"[]", "1", "null", R"({"a": "0"})", R"({"a": 0.5})", R"({"a": {}})", R"({"a": null})"}) {
    folder.write("vocab.json", std::string(text));
    EXPECT_THAT(folder.error(ErrorKind::bad_file), HasSubstr("vocab.json: malformed JSON at byte")) << text;
  }
}

TEST(BadTokenizer, IdsThatCannotBe) {
  TokenizerFolder folder;
  auto with = [&](const char* token, int64_t id) {
    auto changed = vocab(folder);
    changed[token] = id;
    TokenizerFolder other;
    other.write("vocab.json", changed);
    return other.error(ErrorKind::bad_file);
  };
  EXPECT_THAT(with("new", -1), HasSubstr("the token `new` has the id -1; ids are from 0 to 2147483647"));
  EXPECT_THAT(with("new", 1LL << 40), HasSubstr("the token `new` has the id 1099511627776"));
  EXPECT_THAT(with("new", 0), AllOf(HasSubstr("have the same id, 0"), HasSubstr("`new`"), HasSubstr("`!`")));
  folder.write("vocab.json", std::string(R"({"a": 0, "a": 1})"));
  EXPECT_THAT(folder.error(ErrorKind::bad_file), HasSubstr("the token `a` occurs twice"));
}

TEST(BadTokenizer, VocabularyWithoutTheEndToken) {
  TokenizerFolder folder;
  auto without = vocab(folder);
  without.erase("<|endoftext|>");
  folder.write("vocab.json", without);
  EXPECT_THAT(
      folder.error(ErrorKind::bad_file),
      HasSubstr(
          "vocab.json: does not have the token `<|endoftext|>`, the eos_token; is it another model's vocabulary?"));
}

TEST(BadTokenizer, VocabularyWithoutAByte) {
  TokenizerFolder folder;
  auto without = vocab(folder);
  without.erase("~</w>");
  folder.write("vocab.json", without);
  EXPECT_EQ(folder.error(ErrorKind::bad_file), "nothing");  // unk_token stands in
  configure(folder, "unk_token", nullptr);
  EXPECT_THAT(folder.error(ErrorKind::bad_file),
              HasSubstr("does not have the byte token `~</w>`, and there is no unk_token"));
}

TEST(BadTokenizer, MergesOfUnknownTokens) {
  TokenizerFolder folder;
  folder.write("merges.txt", folder.read("merges.txt") + "in zzzz\n");
  EXPECT_THAT(folder.error(ErrorKind::bad_file),
              AllOf(HasSubstr("merges.txt: merge 5006 has the token `inzzzz`, which "),
                    HasSubstr("vocab.json does not have; both")));
}

TEST(BadTokenizer, MergesThatAreNone) {
  TokenizerFolder folder;
  for (const char* line : {"in", "", "i n g", "i  n"}) {
    folder.write("merges.txt", fmt::format("#version: 0.2\ni n\n{}\nt h\n", line));
    EXPECT_THAT(folder.error(ErrorKind::bad_file),
                HasSubstr(fmt::format(
                    "merges.txt: line 3: two tokens with one space between them were expected, `{}` came", line)));
  }
}

TEST(BadTokenizer, MergesWithWindowsLineEnds) {
  TokenizerFolder folder;
  auto before = CLIPTokenizer::from_pretrained(folder.path()).encode("a photograph");
  folder.write("merges.txt", replace_all(folder.read("merges.txt"), "\n", "\r\n"));
  EXPECT_EQ(CLIPTokenizer::from_pretrained(folder.path()).encode("a photograph"), before);
}

TEST(BadTokenizer, ConfigThatIsNoObject) {
  TokenizerFolder folder;
  for (const char* name : {"tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"}) {
    auto before = folder.read(name);
    folder.write(name, std::string("{\"a\": "));
    EXPECT_THAT(folder.error(ErrorKind::bad_file), AllOf(HasSubstr(name), HasSubstr("parse error")));
    folder.write(name, std::string("[1]"));
    EXPECT_THAT(folder.error(ErrorKind::bad_file), AllOf(HasSubstr(name), HasSubstr("holds array; a JSON object")));
    folder.write(name, before.empty() ? "{}" : before);
  }
}

TEST(BadTokenizer, ConfigValuesOfAnotherKind) {
  auto error = [](const char* key, const json& value, ErrorKind kind = ErrorKind::bad_file) {
    TokenizerFolder folder;
    configure(folder, key, value);
    return folder.error(kind);
  };
  for (const json& length : {json(1), json(0), json(-5), json(76.5), json("77"), json(1 << 30), json::array()})
    EXPECT_THAT(error("model_max_length", length),
                HasSubstr("model_max_length is " + length.dump() + "; a whole number from 2 to 1048576 was expected"));
  EXPECT_THAT(error("eos_token", nullptr), HasSubstr("eos_token is null; a token was expected"));
  EXPECT_THAT(error("eos_token", 7), HasSubstr("not as a tokenizer's files should be"));
  EXPECT_THAT(error("pad_token", "<pad>"), HasSubstr("does not have the token `<pad>`, the pad_token"));
  EXPECT_THAT(error("padding_side", "left", ErrorKind::unsupported), HasSubstr("padding_side is left"));
  EXPECT_THAT(error("truncation_side", "left", ErrorKind::unsupported), HasSubstr("truncation_side is left"));
  EXPECT_THAT(error("added_tokens_decoder", {{"x", {{"content", "a"}}}}), HasSubstr("`x` is not a token id"));
  EXPECT_THAT(error("added_tokens_decoder", {{"6000", {{"content", "<new>"}}}}),
              HasSubstr("the added token `<new>` gets the id 5519, but the files beside it say 6000"));
  EXPECT_THAT(error("added_tokens_decoder", {{"5519", {{"lstrip", true}}}}), HasSubstr("not as a tokenizer's files"));
}

TEST(BadTokenizer, OneFileFormOfAnotherModel) {
  auto error = [](const char* pointer, const json& value, ErrorKind kind) {
    TokenizerFolder folder;
    auto tokenizer = one_file();
    tokenizer[json::json_pointer(pointer)] = value;
    folder.write_tokenizer_json(tokenizer);
    return folder.error(kind);
  };
  EXPECT_THAT(error("/model/type", "Unigram", ErrorKind::unsupported), HasSubstr("the model is of type Unigram"));
  EXPECT_THAT(error("/model/end_of_word_suffix", "", ErrorKind::unsupported), HasSubstr("end_of_word_suffix is \"\""));
  EXPECT_THAT(error("/model/vocab", json::array(), ErrorKind::bad_file), HasSubstr("malformed JSON"));
  EXPECT_THAT(error("/model", json::object(), ErrorKind::bad_file), HasSubstr("model.vocab was expected"));
  EXPECT_THAT(error("/model/merges/3", {"a"}, ErrorKind::bad_file), HasSubstr("merge 4: two tokens were expected"));
  EXPECT_THAT(error("/model/merges/3", "a", ErrorKind::bad_file), HasSubstr("merge 4: two tokens were expected"));
  EXPECT_THAT(error("/model/merges/3", 5, ErrorKind::bad_file), HasSubstr("a string was expected"));
  EXPECT_THAT(error("/added_tokens/0/id", 3, ErrorKind::bad_file), HasSubstr("`<|startoftext|>` gets the id 5517"));
  EXPECT_THAT(error("/added_tokens", 3, ErrorKind::bad_file), HasSubstr("not as a tokenizer's files should be"));
  EXPECT_THAT(error("/truncation", {{"direction", "Left"}}, ErrorKind::unsupported),
              HasSubstr("truncation_side is Left"));
}

TEST(BadTokenizer, OneFileFormCutAnywhere) {
  TokenizerFolder folder;
  folder.write_tokenizer_json(one_file());
  auto text = folder.read("tokenizer.json");
  for (size_t size = 0; size < text.size(); size += 997) {
    folder.write("tokenizer.json", text.substr(0, size));
    EXPECT_NE(folder.error(ErrorKind::bad_file), "nothing") << size;
  }
}

}  // namespace lora
