#include "core/utf8.h"

#include <gtest/gtest.h>

#include "lora/error.h"
#include "lora/text.h"

namespace lora {

TEST(Utf8, ValidationIsStrict) {
  for (auto text : {"", "plain", "naïve", "日本", "\xf0\x9f\xa6\x8a"}) EXPECT_TRUE(is_utf8(text)) << text;
  for (auto text :
       {"\x80", "\xc3", "\xc0\x80", "\xe0\x80\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xff", "a\xe6\x97"})
    EXPECT_FALSE(is_utf8(text)) << text;
}

TEST(Utf8, TheFirstInvalidByteIsFoundWhereverItStands) {
  for (size_t length = 1; length < 40; ++length)
    for (size_t at = 0; at < length; ++at) {
      std::string text(length, 'a');
      text[at] = '\xff';
      EXPECT_EQ(find_invalid_utf8(text), at) << length;
    }
  EXPECT_EQ(find_invalid_utf8("0123456789\xe6\x97\xa5\xe6\x97"), 13u);  // cut short
}

TEST(Utf8, EachMaximalInvalidPartBecomesOneReplacement) {
  auto replaced = [](std::string_view bytes) { return to_utf8(from_utf8(bytes)); };
  const std::string r = "\uFFFD";
  EXPECT_EQ(replaced("caf\xc3\xa9 \xe7\x8c\xab \xf0\x9f\x98\x80"), "caf\u00e9 \u732b \U0001F600");
  EXPECT_EQ(replaced("\x80"
                     "a\xbf"),
            r + "a" + r);                                                        // no lead
  EXPECT_EQ(replaced("\xc3(\xc3"), r + "(" + r);                                 // no continuation
  EXPECT_EQ(replaced("\xe7\x8c|\xf0\x9f\x98|\xf0\x9f"), r + "|" + r + "|" + r);  // cut short: one each
  EXPECT_EQ(replaced("\xc0\x80\xc1\xbf"), r + r + r + r);                        // overlong
  EXPECT_EQ(replaced("\xe0\x80\x80"), r + r + r);
  EXPECT_EQ(replaced("\xf0\x80\x80\x80"), r + r + r + r);
  EXPECT_EQ(replaced("\xed\xa0\x80"), r + r + r);          // a surrogate
  EXPECT_EQ(replaced("\xf4\x90\x80\x80"), r + r + r + r);  // above U+10FFFF
  EXPECT_EQ(replaced("\xf5\xff\xfe"), r + r + r);
}

TEST(Utf8, FirstCharactersCutBetweenCharacters) {
  EXPECT_EQ(first_characters("abcdef", 3), "abc");
  EXPECT_EQ(first_characters("日本語", 2), "日本");
  EXPECT_EQ(first_characters("\xff\xff", 1), "\xff");
  EXPECT_EQ(first_characters("ab", 9), "ab");
}

TEST(Text, PrintableIsOneLineThatDoesNothingToATerminal) {
  const std::pair<std::string_view, std::string_view> rows[] = {
      {"café 日本 🦊 👩‍🚀", "café 日本 🦊 👩‍🚀"},  // with U+200D
      {"C:\\x.safetensors", "C:\\x.safetensors"},
      {"a\nlora: ok\r\t", "a\\nlora: ok\\r\\t"},
      {"\x1b[31mred\x07\x7f", "\\x1b[31mred\\x07\\x7f"},
      {"\u009b2J", "\\u009b2J"},            // CSI in one character
      {"gnp.\u202egnp", "gnp.\\u202egnp"},  // right to left
      {"a\u2066b\u2069\u200b\ufeff", "a\\u2066b\\u2069\\u200b\\ufeff"},
      {"\u2028\U000e0041", "\\u2028\\U000e0041"},
      {"caf\xe9 \xf0\x9f", "caf\\xe9 \\xf0\\x9f"},
      {std::string_view("a\0b", 3), "a\\x00b"},
  };
  for (auto [text, shown] : rows) {
    EXPECT_EQ(printable(text), shown);
    EXPECT_EQ(printable(printable(text)), shown) << "a message that quotes a message";
    EXPECT_EQ(Error(ErrorKind::io, std::string(text)).what(), std::string(shown));
  }
}

TEST(Text, ValidUtf8KeepsAllThatIsValid) {
  EXPECT_EQ(valid_utf8("caf\xe9\n\x1b\u202e日"), "caf\\xe9\n\x1b\u202e日");
  EXPECT_EQ(valid_utf8("\xed\xa0\x80"), "\\xed\\xa0\\x80");  // a surrogate
}

}  // namespace lora
