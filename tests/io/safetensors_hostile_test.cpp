#include "io/safetensors.h"
#include "io/support.h"

namespace lora {

namespace {

std::string file_of(const std::string& header, const std::string& tensor_bytes = "") {
  uint64_t length = header.size();
  return std::string(reinterpret_cast<char*>(&length), 8) + header + tensor_bytes;
}

testing::AssertionResult refused(ErrorKind kind, const std::string& part, const std::string& bytes) {
  return fails(kind, "f: " + part, [&] { parse_safetensors_header(bytes, "f"); });
}

testing::AssertionResult bad(const std::string& part, const std::string& header, const std::string& tensor_bytes = "") {
  return refused(ErrorKind::bad_file, part, file_of(header, tensor_bytes));
}

std::string tensor(const std::string& name, const std::string& dtype, const std::string& shape,
                   const std::string& offsets) {
  return fmt::format(R"("{}":{{"dtype":"{}","shape":{},"data_offsets":{}}})", name, dtype, shape, offsets);
}

std::string header_of(const std::vector<std::string>& entries) {
  return fmt::format("{{{}}}", fmt::join(entries, ","));
}

}  // namespace

TEST(SafetensorsHostile, HeaderLength) {
  EXPECT_TRUE(refused(ErrorKind::bad_file, "has 3 bytes", "abc"));
  EXPECT_TRUE(refused(ErrorKind::bad_file, "says its header has 100000001 bytes; the most is 100000000",
                      std::string("\x01\xe1\xf5\x05\0\0\0\0{}", 10)));
  EXPECT_TRUE(
      refused(ErrorKind::bad_file, "says its header has 18446744073709551615 bytes", std::string(8, '\xff') + "{}"));
  EXPECT_TRUE(refused(ErrorKind::bad_file, "says its header has 9 bytes, but only 2 follow",
                      std::string("\x09\0\0\0\0\0\0\0{}", 10)));
}

TEST(SafetensorsHostile, HeaderText) {
  EXPECT_TRUE(bad("the header does not begin with '{'", ""));
  EXPECT_TRUE(bad("the header does not begin with '{'", " {}"));
  EXPECT_TRUE(bad("the header does not begin with '{'", "[]"));
  EXPECT_TRUE(bad("the header: malformed JSON at byte 9", "{"));
  EXPECT_TRUE(bad("the header: malformed JSON at byte", "{} {}"));
  EXPECT_TRUE(bad("the header: malformed JSON at byte", "{,}"));
  EXPECT_TRUE(bad("the header: malformed JSON at byte", std::string("{}\0", 3)));
  EXPECT_TRUE(bad("the header is not UTF-8 at byte 10", "{\"\xff\":1}"));
  EXPECT_TRUE(bad("the header: malformed JSON at byte", "{\"\\ud800\":1}"));
  EXPECT_TRUE(bad("the header: malformed JSON at byte", "{'a':1}"));
  EXPECT_NO_THROW(parse_safetensors_header(file_of("{}   \n"), "f"));
}

TEST(SafetensorsHostile, DuplicateKeys) {
  auto t = tensor("x", "U8", "[1]", "[0,1]");
  EXPECT_TRUE(bad("the header has tensor \"x\" twice", header_of({t, t}), "a"));
  EXPECT_TRUE(bad("the header has __metadata__ twice", R"({"__metadata__":{},"__metadata__":{}})"));
  EXPECT_TRUE(bad("__metadata__ has the key \"a\" twice", R"({"__metadata__":{"a":"1","a":"2"}})"));
  EXPECT_TRUE(bad("tensor \"x\" has dtype twice",
                  R"({"x":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}})", "a"));
}

TEST(SafetensorsHostile, Metadata) {
  EXPECT_TRUE(bad("__metadata__ is 3; wanted an object", R"({"__metadata__":3})"));
  EXPECT_TRUE(bad("__metadata__ is a list", R"({"__metadata__":[]})"));
  EXPECT_TRUE(bad("__metadata__ holds 3 under \"a\"; wanted text", R"({"__metadata__":{"a":3}})"));
  EXPECT_TRUE(bad("__metadata__ holds an object under \"a\"", R"({"__metadata__":{"a":{}}})"));
  EXPECT_TRUE(bad("__metadata__ holds null under \"a\"", R"({"__metadata__":{"a":null}})"));
  EXPECT_TRUE(parse_safetensors_header(file_of(R"({"__metadata__":null})"), "f").metadata.empty());
}

TEST(SafetensorsHostile, TensorFields) {
  EXPECT_TRUE(bad("tensor \"x\" is described by 3; wanted an object", R"({"x":3})"));
  EXPECT_TRUE(bad("tensor \"x\" is described by a list", R"({"x":["U8",[1],[0,1]]})", "a"));
  EXPECT_TRUE(bad("tensor \"x\" is described by null", R"({"x":null})"));
  EXPECT_TRUE(bad("tensor \"x\" does not have all of dtype, shape and data_offsets", R"({"x":{}})"));
  EXPECT_TRUE(bad("tensor \"x\" does not have all of", R"({"x":{"dtype":"U8","shape":[1]}})", "a"));
  EXPECT_TRUE(bad("tensor \"x\" has the field \"scale\"",
                  R"({"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"scale":1}})", "a"));
  EXPECT_TRUE(bad("tensor \"x\" has 1 as dtype; wanted a name", R"({"x":{"dtype":1}})"));
  EXPECT_TRUE(bad("tensor \"x\" has text in its shape", R"({"x":{"shape":"1"}})"));
  EXPECT_TRUE(bad("tensor \"x\" has a list in its shape", R"({"x":{"shape":[[1]]}})"));
  EXPECT_TRUE(bad("tensor \"x\" has an object in its data_offsets", R"({"x":{"data_offsets":{}}})"));
  EXPECT_TRUE(bad("tensor \"x\" has data_offsets of length 1; wanted two positions", R"({"x":{"data_offsets":[1]}})"));
  EXPECT_TRUE(
      bad("tensor \"x\" has data_offsets of length 3; wanted two positions", R"({"x":{"data_offsets":[1,2,3]}})"));
  EXPECT_TRUE(bad("tensor \"x\" has -1 in its data_offsets", R"({"x":{"data_offsets":[-1,2]}})"));
}

TEST(SafetensorsHostile, Dtypes) {
  for (auto name : {"F4", "F6_E2M3", "F6_E3M2", "float32", "I128", ""})
    EXPECT_TRUE(refused(ErrorKind::unsupported,
                        fmt::format("tensor \"x\" has the dtype {}, which is not supported", name),
                        file_of(header_of({tensor("x", name, "[2]", "[0,1]")}), "a")));
}

TEST(SafetensorsHostile, Shapes) {
  auto with = [](const std::string& shape, const std::string& dtype = "U8") {
    return header_of({tensor("x", dtype, shape, "[0,1]")});
  };
  EXPECT_TRUE(bad("tensor \"x\" has -1 in its shape; wanted a list of sizes from 0", with("[-1]"), "a"));
  EXPECT_TRUE(bad("tensor \"x\" has 1.0 in its shape", with("[1.0]"), "a"));
  EXPECT_TRUE(bad("tensor \"x\" has 1e0 in its shape", with("[1e0]"), "a"));
  EXPECT_TRUE(bad("tensor \"x\" has true in its shape", with("[true]"), "a"));
  EXPECT_TRUE(bad("tensor \"x\" has 9223372036854775808 in its shape", with("[9223372036854775808]"), "a"));
  EXPECT_TRUE(bad("tensor \"x\" has 18446744073709551616 in its shape", with("[18446744073709551616]"), "a"));
  EXPECT_TRUE(bad("tensor \"x\" has a shape whose product overflows", with("[4294967296,4294967296]"), "a"));
  EXPECT_TRUE(bad("tensor \"x\" has a shape whose product overflows", with("[0,4611686018427387904,4]"), "a"));
  EXPECT_TRUE(bad("tensor \"x\" has a shape whose product overflows", with("[4611686018427387904]", "F32"), "a"));
  EXPECT_TRUE(bad("tensor \"x\" has 1 bytes; its shape and dtype make 4611686018427387904",
                  with("[4611686018427387904]"), "a"));
  EXPECT_TRUE(bad("tensor \"x\" has 1 bytes; its shape and dtype make 2", with("[1]", "F16"), "a"));
  EXPECT_TRUE(bad("tensor \"x\" has 1 bytes; its shape and dtype make 0", with("[0]"), "a"));
}

TEST(SafetensorsHostile, Offsets) {
  auto two = [](const std::string& a, const std::string& b) {
    return header_of({tensor("x", "U8", "[2]", a), tensor("y", "U8", "[2]", b)});
  };
  EXPECT_NO_THROW(parse_safetensors_header(file_of(two("[2,4]", "[0,2]"), "abcd"), "f"));
  EXPECT_TRUE(bad("tensor \"y\" begins at 1, inside another that ends at 2", two("[0,2]", "[1,3]"), "abcd"));
  EXPECT_TRUE(bad("tensor \"y\" begins at 0, inside another", two("[0,2]", "[0,2]"), "ab"));
  EXPECT_TRUE(bad("1 bytes before tensor \"y\" belong to no tensor", two("[0,2]", "[3,5]"), "abcde"));
  EXPECT_TRUE(bad("1 bytes before tensor \"x\" belong to no tensor", two("[1,3]", "[3,5]"), "abcde"));
  EXPECT_TRUE(bad("3 bytes after the last tensor belong to no tensor", two("[0,2]", "[2,4]"), "abcdefg"));
  EXPECT_TRUE(bad("tensor \"y\" ends at byte 4 of the data, but the file has 3; the file is cut off",
                  two("[0,2]", "[2,4]"), "abc"));
  EXPECT_TRUE(bad("tensor \"x\" ends at 0, before it begins at 2", two("[2,0]", "[0,2]"), "ab"));
  EXPECT_TRUE(bad("1 bytes after the last tensor", "{}", "a"));
  EXPECT_TRUE(bad("tensor \"x\" has 18446744073709551615 bytes; its shape and dtype make 2",
                  header_of({tensor("x", "U8", "[2]", "[0,18446744073709551615]")}), "ab"));
}

TEST(SafetensorsHostile, DeepNestingEndsAtOnce) {
  EXPECT_TRUE(bad("tensor \"a\" is described by a list", "{\"a\":" + std::string(1'000'000, '[')));
  std::string objects = "{\"a\":";
  for (int i = 0; i < 100'000; ++i) objects += "{\"a\":";
  EXPECT_TRUE(bad("tensor \"a\" has the field \"a\"", objects));
}

TEST(SafetensorsHostile, EveryTruncationIsRefused) {
  MemoryFile memory;
  for (auto name : {"dtypes.safetensors", "shapes.safetensors", "names.safetensors"}) {
    auto bytes = read_bytes(data(name));
    for (size_t size = 0; size < bytes.size(); ++size) {
      auto file = memory.write(bytes.substr(0, size));
      EXPECT_TRUE(fails(ErrorKind::bad_file, "/proc/self/fd/", [&] { load_state_dict(file); }))
          << name << " at " << size;
    }
  }
}

}  // namespace lora
