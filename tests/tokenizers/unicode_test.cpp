#include "tokenizers/unicode.h"

#include <gtest/gtest.h>

namespace lora {

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

}  // namespace lora
