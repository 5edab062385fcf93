#include "io/json_file.h"

#include "io/support.h"

namespace lora {

TEST(JsonFile, ReadsAndWrites) {
  TemporaryFolder dir;
  write_text(dir / "a.json", R"({"sizes": [1, 2], "name": "ü"})");
  auto json = read_json(dir / "a.json");
  EXPECT_EQ(json["sizes"][1], 2);
  EXPECT_EQ(json["name"], "ü");
  EXPECT_EQ(dir.names(), std::vector<std::string>{"a.json"});
}

TEST(JsonFile, SaysWhereTheTextGoesWrong) {
  TemporaryFolder dir;
  auto file = dir.write("a.json", "{\n  \"a\": 1,\n  oops\n}");
  EXPECT_TRUE(
      fails(ErrorKind::bad_file, "a.json: is not JSON: parse error at line 3, column 3", [&] { read_json(file); }));
  EXPECT_TRUE(fails(ErrorKind::bad_file, "has NUL bytes", [&] { read_json(dir.write("b.json", {"{}\0x", 4})); }));
  EXPECT_TRUE(fails(ErrorKind::bad_file, "is empty", [&] { read_json(dir.write("b.json", "")); }));
  EXPECT_TRUE(fails(ErrorKind::not_found, "c.json: no such file", [&] { read_json(dir / "c.json"); }));
}

TEST(JsonFile, MessagesStayShort) {
  TemporaryFolder dir;
  auto file = dir.write("a.json", std::string("\"").append(100'000, 'x'));
  try {
    read_json(file);
    FAIL();
  } catch (const Error& error) {
    EXPECT_LT(std::string(error.what()).size(), 400u);
  }
}

TEST(JsonFile, DeepNestingDoesNotCrash) {
  TemporaryFolder dir;
  EXPECT_TRUE(
      fails(ErrorKind::bad_file, "is not JSON", [&] { read_json(dir.write("a.json", std::string(1'000'000, '['))); }));
  read_json(dir.write("b.json", std::string(200'000, '[') + std::string(200'000, ']')));
}

}  // namespace lora
