#include "lora/state_dict.h"

#include "io/support.h"

namespace lora {

TEST(StateDict, KeepsTheOrderOfInsertion) {
  StateDict dict{{"b", at::zeros(1)}, {"a", at::ones(1)}};
  dict.set("c", at::zeros(2));
  dict.set("b", at::zeros(3));
  std::vector<std::string> names;
  for (const auto& [name, tensor] : dict) names.push_back(name);
  EXPECT_EQ(names, (std::vector<std::string>{"b", "a", "c"}));
  EXPECT_EQ(dict.at("b").numel(), 3);
  EXPECT_EQ(dict.size(), 3u);
}

TEST(StateDict, FindGivesNothingForAnUnknownName) {
  StateDict dict{{"a", at::zeros(1)}};
  EXPECT_EQ(dict.find("b"), nullptr);
  EXPECT_FALSE(dict.contains("A"));
  EXPECT_TRUE(StateDict().empty());
}

TEST(StateDict, AtNamesTheNearestKey) {
  StateDict dict{{"down.0.weight", at::zeros(1)}, {"mid.weight", at::zeros(1)}};
  EXPECT_TRUE(fails(ErrorKind::bad_key, "\"down.0.weight\"", [&] { dict.at("down.0.wieght"); }));
  EXPECT_TRUE(fails(ErrorKind::bad_key, "\"x\" among 2", [&] { dict.at("x"); }));
}

TEST(StateDict, CopiesAreIndependent) {
  StateDict a{{"x", at::zeros(1)}}, b = a;
  b.set("y", at::zeros(1));
  EXPECT_EQ(a.size(), 1u);
  EXPECT_TRUE(b.contains("y"));
}

}  // namespace lora
