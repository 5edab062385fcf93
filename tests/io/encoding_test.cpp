#include "io/encoding.h"

#include <gtest/gtest.h>

namespace lora {

TEST(Encoding, Utf8IsStrict) {
  for (auto text : {"", "plain", "naïve", "日本", "\xf0\x9f\xa6\x8a"}) EXPECT_TRUE(is_utf8(text)) << text;
  for (auto text :
       {"\x80", "\xc3", "\xc0\x80", "\xe0\x80\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xff", "a\xe6\x97"})
    EXPECT_FALSE(is_utf8(text)) << text;
}

TEST(Encoding, Latin1AndBack) {
  EXPECT_EQ(to_latin1("façade"),
            "fa\xe7"
            "ade");
  EXPECT_EQ(to_latin1("狐"), std::nullopt);
  EXPECT_EQ(to_latin1("\xff"), std::nullopt);
  std::string all;
  for (int c = 0; c < 256; ++c) all.push_back(static_cast<char>(c));
  EXPECT_EQ(to_latin1(from_latin1(all)), all);
}

}  // namespace lora
