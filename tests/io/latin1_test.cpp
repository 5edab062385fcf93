#include "io/latin1.h"

#include <gtest/gtest.h>

namespace lora {

TEST(Latin1, ToUtf8AndBack) {
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
