#include "core/columns.h"

#include <gtest/gtest.h>

namespace lora {

TEST(Columns, WideCharactersTakeTwoAndMarksNone) {
  EXPECT_EQ(columns_of(""), 0u);
  EXPECT_EQ(columns_of("ink-0.8"), 7u);
  EXPECT_EQ(columns_of("naïve – …"), 9u);
  EXPECT_EQ(columns_of("水彩"), 4u);
  EXPECT_EQ(columns_of("ｱ"), 1u);   // half width
  EXPECT_EQ(columns_of("Ａ"), 2u);  // full width
  EXPECT_EQ(columns_of("e\u0301"), 1u);
  EXPECT_EQ(columns_of("🦊"), 2u);
}

TEST(Columns, ACutLineEndsWithDotsAndFits) {
  EXPECT_EQ(cut_to_columns("watercolour", 11), "watercolour");
  EXPECT_EQ(cut_to_columns("watercolour", 10), "watercolo…");
  EXPECT_EQ(cut_to_columns("水彩画", 6), "水彩画");
  EXPECT_EQ(cut_to_columns("水彩画", 5), "水彩…");
  EXPECT_EQ(cut_to_columns("水彩画", 4), "水…");
  EXPECT_EQ(cut_to_columns("ae\u0301io", 3), "ae\u0301…");
  EXPECT_EQ(cut_to_columns("abc", 1), "…");
  EXPECT_EQ(cut_to_columns("abc", 0), "");
}

}  // namespace lora
