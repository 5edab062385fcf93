#include "core/text.h"

#include <gtest/gtest.h>

namespace lora {

TEST(Text, SplitAndJoinAreInverse) {
  EXPECT_EQ(split("a.b..c", '.'), (std::vector<std::string>{"a", "b", "", "c"}));
  EXPECT_EQ(split("", '.'), std::vector<std::string>{""});
  EXPECT_EQ(join(split("a.b..c", '.'), "."), "a.b..c");
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
