#include "tokenizers/unicode.h"

#include <gtest/gtest.h>

#include "tokenizers/words.h"

namespace lora {

TEST(Unicode, EachMaximalInvalidPartBecomesOneReplacement) {
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

TEST(Unicode, NormalizesAsTheReference) {
  EXPECT_EQ(normalized(U"  A \t\u3000B\u0301\n"), U" a b\u0301 ");
  EXPECT_EQ(normalized(U"E\u0301 \u212B"), U"\u00e9 \u00e5");
  EXPECT_EQ(normalized(U"\u0130 \u03A3\u03A3 \u00DF"), U"i\u0307 \u03C3\u03C3 \u00DF");  // no final sigma
  EXPECT_EQ(normalized(U"\u1100\u1161\u11A8"), U"\uAC01");
}

TEST(Unicode, LowerCaseKnowsMoreThanTheOldestIcu) {
  EXPECT_EQ(normalized(U"\U00016EA0\U00010D50\uA7CB"), U"\U00016EBB\U00010D70\u0264");
}

TEST(Unicode, CompositionIsThatOfUnicode9) {
  EXPECT_EQ(normalized(U"\U00011131\U00011127"), U"\U0001112E");            // Chakma, 6.1
  EXPECT_EQ(normalized(U"\U00011935\U00011930"), U"\U00011935\U00011930");  // Dives Akuru, 13.0: left apart
}

TEST(Unicode, ClassesOfCharacters) {
  EXPECT_TRUE(is_letter(U'a') && is_letter(U'\u732b') && is_letter(U'\u02b0') && is_letter(U'\U000323AF'));
  EXPECT_FALSE(is_letter(U'1') || is_letter(U'_') || is_letter(U'\u0301') || is_letter(U'\u0903') ||
               is_letter(0x10FFFF));
  EXPECT_TRUE(is_number(U'1') && is_number(U'\u00BD') && is_number(U'\u2167'));
  EXPECT_FALSE(is_number(U'a') || is_number(U'\u4e00'));
  EXPECT_TRUE(is_space(U'\u0085') && is_space(U'\u00A0') && is_space(U'\u3000'));
  EXPECT_FALSE(is_space(U'\u200b') || is_space(U'\x1c') || is_space(U'\u180e') || is_space(0));
  EXPECT_TRUE(is_word(U'_') && is_word(U'7') && is_word(U'\u0301') && is_word(U'\u200d'));
  EXPECT_FALSE(is_word(U'-') || is_word(U' ') || is_word(U'\u00BD'));
}

TEST(Words, AreContractionsLettersDigitsAndTheRest) {
  auto words = [](std::u32string_view text) { return split_words(text); };
  using W = std::vector<std::u32string_view>;
  EXPECT_EQ(words(U""), W{});
  EXPECT_EQ(words(U" it's 12 o'clock?! "), (W{U"it", U"'s", U"1", U"2", U"o", U"'", U"clock", U"?!"}));
  EXPECT_EQ(words(U"'sun''s"), (W{U"'s", U"un", U"''", U"s"}));
  EXPECT_EQ(words(U"<|endoftext|>!!"), (W{U"<|", U"endoftext", U"|>", U"!!"}));
  EXPECT_EQ(words(U"!<|endoftext|>!!"), (W{U"!<|", U"endoftext", U"|>!!"}));
}

}  // namespace lora
