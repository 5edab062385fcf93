#include "core/json_cursor.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "lora/error.h"

namespace lora {

namespace {

std::string string_of(std::string_view text) {
  JsonCursor at(text, "test");
  std::string value(at.string());
  at.end();
  return value;
}

std::string raw_of(std::string_view text) {
  JsonCursor at(text, "test");
  std::string value(at.raw());
  at.end();
  return value;
}

// The message, or "nothing".
template <class Read>
std::string error_of(std::string_view text, Read read) {
  JsonCursor at(text, "test");
  try {
    read(at);
    at.end();
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::bad_file);
    return e.what();
  }
  return "nothing";
}

}  // namespace

TEST(JsonCursor, StringsAreThoseOfNlohmann) {
  for (const char* text : {R"("")", R"("plain")", R"( "a\"b\\c\/d\b\f\n\r\t" )", R"("\u0041\u00e9\u732b")",
                           R"("\ud83d\ude00!")", "\"\xc4\xa0w\"", R"("\\u0041")", R"("\uD83D\uDE00\uFFFD")"})
    EXPECT_EQ(string_of(text), nlohmann::json::parse(text).get<std::string>()) << text;
}

TEST(JsonCursor, RefusesMalformedStrings) {
  for (const char* text :
       {"", "x", "\"", "\"abc", "\"abc\\", "\"abc\\\"", R"("\x41")", R"("\u12")", R"("\u12g4")", R"("\ud83d")",
        R"("\ud83dx")", R"("\ud83d\u0041")", R"("\ude00")", R"("\u-123")", "\"a\nb\"", R"("a"b)"})
    EXPECT_NE(error_of(text, [](JsonCursor& at) { at.string(); }), "nothing") << text;
}

TEST(JsonCursor, IntegersAreWhole) {
  for (const char* text : {"1.5", "1e3", "1E3", "99999999999999999999", "01", "-01", "-", "x", "\"1\"", "", "1 2"})
    EXPECT_NE(error_of(text, [](JsonCursor& at) { at.integer(); }), "nothing") << text;
  JsonCursor at(" -12 ", "test");
  EXPECT_EQ(at.integer(), -12);
}

TEST(JsonCursor, TryIntegerTakesNothingWhereItReturnsNothing) {
  JsonCursor at("[-1, 18446744073709551615, 18446744073709551616, 1.5, \"a\"]", "test");
  std::vector<std::string> left;
  at.array([&] {
    if (auto number = at.try_integer<uint64_t>())
      EXPECT_EQ(*number, UINT64_MAX);
    else
      left.emplace_back(at.raw());
  });
  EXPECT_EQ(left, (std::vector<std::string>{"-1", "18446744073709551616", "1.5", "\"a\""}));
}

TEST(JsonCursor, SaysWhatAValueIs) {
  auto described = [](std::string_view text) { return JsonCursor(text, "test").described(); };
  EXPECT_EQ(described(" {\"a\":1}"), "an object");
  EXPECT_EQ(described("[1]"), "a list");
  EXPECT_EQ(described("\"a\""), "text");
  EXPECT_EQ(described("-1.5]"), "-1.5");
  EXPECT_EQ(described("null"), "null");
  EXPECT_EQ(described(" "), "nothing");
}

TEST(JsonCursor, CanBeginInsideAText) {
  JsonCursor at("12345 67", "test", 5);
  EXPECT_EQ(at.integer(), 67);
  try {
    JsonCursor("12345 x", "test", 5).integer();
    FAIL();
  } catch (const Error& e) {
    EXPECT_STREQ(e.what(), "test: malformed JSON at byte 6: a whole number was expected, `x` came");
  }
}

TEST(JsonCursor, WalksObjectsAndArrays) {
  JsonCursor at(R"( {"a" : [1 ,2], "b":{}, "c":[ ], "d":{"e":"]}"}} )", "test");
  std::string seen;
  at.object([&](std::string_view key) {
    seen += key;
    if (key == "a")
      at.array([&] { seen += std::to_string(at.integer()); });
    else
      seen += at.raw();
  });
  at.end();
  EXPECT_EQ(seen, R"(a12b{}c[ ]d{"e":"]}"})");
}

TEST(JsonCursor, RawTakesOneValue) {
  for (const char* text : {"1", "true", "\"a]\"", "[[],[{}]]", R"({"a":"}\"","b":[1]})"}) EXPECT_EQ(raw_of(text), text);
  for (const char* text : {"", ",", "]", "[", "{\"a\"", "\"", "[\"", "1 2", "[]]"})
    EXPECT_NE(error_of(text, [](JsonCursor& at) { at.object([&](auto) { at.raw(); }); }), "nothing") << text;
}

TEST(JsonCursor, RefusesMalformedObjects) {
  for (const char* text : {"{", "{}}", "{,}", R"({"a"})", R"({"a":})", R"({"a":1,})", R"({"a":1 "b":2})", R"({"a":1])",
                           R"({a:1})", "[]", R"({"a":1} x)", ""})
    EXPECT_NE(error_of(text, [](JsonCursor& at) { at.object([&](auto) { at.integer(); }); }), "nothing") << text;
}

TEST(JsonCursor, MessagesSayWhere) {
  EXPECT_EQ(error_of(R"({"a":1 "b":2})", [](JsonCursor& at) { at.object([&](auto) { at.integer(); }); }),
            "test: malformed JSON at byte 7: `}` was expected, `\"b\":2}` came");
}

}  // namespace lora
