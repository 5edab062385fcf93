#include "tokenizers/pre_tokenizer.h"

#include <gtest/gtest.h>

namespace lora {

TEST(PreTokenizer, SplitsContractionsLettersDigitsAndTheRest) {
  auto words = [](std::u32string_view text) { return pre_tokenize(text); };
  using W = std::vector<std::u32string_view>;
  EXPECT_EQ(words(U""), W{});
  EXPECT_EQ(words(U" it's 12 o'clock?! "), (W{U"it", U"'s", U"1", U"2", U"o", U"'", U"clock", U"?!"}));
  EXPECT_EQ(words(U"'sun''s"), (W{U"'s", U"un", U"''", U"s"}));
  EXPECT_EQ(words(U"<|endoftext|>!!"), (W{U"<|", U"endoftext", U"|>", U"!!"}));
  EXPECT_EQ(words(U"!<|endoftext|>!!"), (W{U"!<|", U"endoftext", U"|>!!"}));
}

}  // namespace lora
