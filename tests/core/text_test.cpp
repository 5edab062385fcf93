#include "core/text.h"

#include <gtest/gtest.h>

namespace lora {

TEST(Text, SplitAndJoinAreInverse) {
  EXPECT_EQ(split("a.b..c", '.'), (std::vector<std::string>{"a", "b", "", "c"}));
  EXPECT_EQ(split("", '.'), std::vector<std::string>{""});
  EXPECT_EQ(join(split("a.b..c", '.'), "."), "a.b..c");
}

TEST(Text, TrimmedHasNoSpaceAtItsEnds) {
  EXPECT_EQ(trimmed(" \t a b\r\n"), "a b");
  EXPECT_EQ(trimmed(" \n"), "");
  EXPECT_EQ(trimmed(""), "");
}

TEST(Text, IntegersAreTheWholeText) {
  EXPECT_EQ(parse_integer<int>("-12"), -12);
  EXPECT_EQ(parse_integer<uint64_t>("18446744073709551615"), UINT64_MAX);
  for (auto text : {"", " 1", "1 ", "+1", "1.5", "x", "99999999999999999999"})
    EXPECT_EQ(parse_integer<int64_t>(text), std::nullopt) << text;
}

TEST(Text, ReplaceAllDoesNotRescanWhatItWrote) { EXPECT_EQ(replace_all("aaa", "a", "aa"), "aaaaaa"); }

TEST(Text, NearestFindsSlipsAndRejectsStrangers) {
  std::vector<std::string> names{"pixel", "crayon", "ink"};
  EXPECT_EQ(nearest("pixle", names), "pixel");
  EXPECT_EQ(nearest("watercolour", names), "");
}

TEST(Text, ListingSaysHowManyThereAre) {
  EXPECT_EQ(listing({"a", "b"}), "a, b");
  EXPECT_EQ(listing({"a", "b", "c"}, 2), "a, b, … (3 in all)");
}

}  // namespace lora
