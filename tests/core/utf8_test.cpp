#include "core/utf8.h"

#include <gtest/gtest.h>

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

TEST(Utf8, PrintableTextHasNoControlCharacters) {
  EXPECT_EQ(printable("a\nb\x7f\xff é"), "a\uFFFDb\uFFFD\uFFFD é");
  EXPECT_EQ(printable("abcdef", 3), "abc");
}

}  // namespace lora
