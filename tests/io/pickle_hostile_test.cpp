#include "io/pickle.h"
#include "io/pickles.h"
#include "io/support.h"

namespace lora {

namespace {

testing::AssertionResult refused(ErrorKind kind, const std::string& part, const std::string& bytes) {
  return fails(kind, part, [&] { unpickle(bytes, "f"); });
}

// `body` is the content of the pickle.
testing::AssertionResult bad(const std::string& part, const std::string& body) {
  return refused(ErrorKind::bad_file, part, pickle(body));
}

testing::AssertionResult file_fails(ErrorKind kind, const std::string& part, const std::string& bytes) {
  TemporaryFolder dir;
  auto file = dir.write("f.pt", bytes);
  return fails(kind, part, [&] { load_state_dict(file); });
}

std::string repeat(const std::string& part, size_t times) {
  std::string all;
  for (size_t i = 0; i < times; ++i) all += part;
  return all;
}

}  // namespace

TEST(PickleHostile, AGoodFileByHandLoads) {
  TemporaryFolder dir;
  auto dict_of_one = load_state_dict(dir.write("f.pt", legacy(pickle(dict(text("w") + small_tensor())))));
  EXPECT_EQ(dict_of_one.at("w").numel(), 2);
}

TEST(PickleHostile, CallsAreRefusedByName) {
  std::string message =
      "f: contains the Python object 'os.system'; only tensors and plain values are read from pickles";
  EXPECT_TRUE(refused(ErrorKind::unsupported, message, pickle(global("os", "system") + "(" + text("true") + "tR")));
  EXPECT_TRUE(refused(ErrorKind::unsupported, message, pickle(global("os", "system") + ")\x81")));
  EXPECT_TRUE(refused(ErrorKind::unsupported, message, pickle(global("os", "system") + "}b")));
  EXPECT_TRUE(refused(ErrorKind::unsupported, message, "\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R."));
  EXPECT_TRUE(refused(ErrorKind::unsupported, "'builtins.eval'",
                      pickle(global("__builtin__", "eval") + "(" + text("1") + "tR")));
  EXPECT_TRUE(refused(ErrorKind::unsupported, "'numpy.core.multiarray.scalar'",
                      pickle(global("numpy.core.multiarray", "scalar") + ")R")));
  // The same through functions whose arguments are a function or a class.
  EXPECT_TRUE(refused(ErrorKind::unsupported, "'os.system'",
                      pickle(global("torch._tensor", "_rebuild_from_type_v2") + "(" + global("os", "system") +
                             global("torch", "Tensor") + "(" + text("true") + "t}tR")));
  EXPECT_TRUE(
      refused(ErrorKind::unsupported, "'os.system'", pickle("(" + text("module") + global("os", "system") + "NNtQ)R")));
  EXPECT_TRUE(file_fails(ErrorKind::unsupported, "f.pt: contains the Python object 'os.system'",
                         legacy(pickle(dict(text("w") + global("os", "system") + "(" + text("true") + "tR")))));
}

TEST(PickleHostile, ClassesThatAreNotCalledArePassedOver) {
  TemporaryFolder dir;
  auto items =
      global("a.b", "Class") + small_tensor() + text("v") + global("os", "system") + text("w") + small_tensor();
  auto loaded = load_state_dict(dir.write("f.pt", legacy(pickle(dict(items)))));
  EXPECT_EQ(loaded.size(), 1u);
  EXPECT_TRUE(loaded.contains("w"));
}

TEST(PickleHostile, TheStackMachineHoldsItsGround) {
  EXPECT_TRUE(refused(ErrorKind::bad_file, "f: its pickle is damaged at byte 0: it is cut off", ""));
  EXPECT_TRUE(bad("it takes from an empty stack", ""));
  EXPECT_TRUE(bad("it takes from an empty stack", "0"));
  EXPECT_TRUE(bad("it takes from an empty stack", "N\x87"));
  EXPECT_TRUE(bad("it takes from an empty stack", "N(0"));
  EXPECT_TRUE(bad("it takes from an empty stack", "q\1"));
  EXPECT_TRUE(bad("it takes from an empty stack", "2"));
  EXPECT_TRUE(bad("it takes from an empty stack", "N("));
  EXPECT_TRUE(bad("it does not have a mark", "t"));
  EXPECT_TRUE(bad("it does not have a mark", "}u"));
  EXPECT_TRUE(bad("it adds an item to a value that is not a list", "NNa"));
  EXPECT_TRUE(bad("it adds an item to a value that is not a list", ")Na"));
  EXPECT_TRUE(bad("it adds a key to a value that is not a dict", "NNNs"));
  EXPECT_TRUE(bad("a key without a value", "}(Nu"));
  EXPECT_TRUE(bad("it calls a value that is not a function", "N)R"));
  EXPECT_TRUE(bad("without a tuple", global("os", "system") + "NR"));
  EXPECT_TRUE(bad("it sets the state of a value that does not have a state", "N}b"));
  EXPECT_TRUE(bad("a class without a name", "NN\x93"));
  EXPECT_TRUE(bad("a name without an end", "cos"));
  EXPECT_TRUE(bad("a name without an end", "c" + std::string(1'000'000, 'a')));
  EXPECT_TRUE(bad("it is cut off", "X\xff\xff\xff\xff"));
  EXPECT_TRUE(bad("it is cut off", "\x8d" + le(UINT64_MAX)));
  EXPECT_TRUE(bad("it is cut off", "\x8b\xff\xff\xff\xff"));
  EXPECT_TRUE(bad("it is cut off", "\x95"));
  EXPECT_TRUE(refused(ErrorKind::unsupported, "opcode 0x49", pickle("I1\n")));
  EXPECT_TRUE(refused(ErrorKind::unsupported, "protocol 6", "\x80\x06N."));
}

TEST(PickleHostile, MemosCannotReserveMemory) {
  EXPECT_TRUE(bad("a memo index out of range", "Nr\xff\xff\xff\xff"));
  EXPECT_TRUE(bad("it refers to a memo that was not set", "h\x05"));
  EXPECT_TRUE(bad("it refers to a memo that was not set", "j\xff\xff\xff\xff"));
  EXPECT_TRUE(bad("it refers to a memo that was not set", "Nq\x02h\x01"));
}

TEST(PickleHostile, DeepNestingCostsNoStack) {
  EXPECT_NO_THROW(unpickle(pickle("N" + repeat("\x85", 500'000)), "f"));
  EXPECT_NO_THROW(unpickle(pickle(repeat("]", 300'000) + repeat("a", 299'999)), "f"));
  EXPECT_NO_THROW(unpickle(pickle(repeat("(", 300'000) + repeat("t", 300'000)), "f"));
  auto nested = repeat("}" + text("a"), 100'000) + small_tensor() + repeat("s", 100'000);
  EXPECT_TRUE(file_fails(ErrorKind::bad_file, "nests dicts more than", legacy(pickle(nested))));
  // Functions within functions.
  auto calls = global("collections", "OrderedDict") + ")";
  for (int i = 0; i < 3; ++i)
    calls = global("torch._tensor", "_rebuild_from_type_v2") + "(" + calls + global("torch", "Tensor");
  EXPECT_FALSE(fails(ErrorKind::io, "", [&] { unpickle(pickle(calls), "f"); }));
}

TEST(PickleHostile, CyclesAndRepetitionEnd) {
  EXPECT_TRUE(file_fails(ErrorKind::bad_file, "nests dicts",
                         legacy(pickle("}q\1" + text("w") + small_tensor() + "s" + text("a") + "h\1s"))));
  EXPECT_NO_THROW(unpickle(pickle("]q\1h\1a"), "f"));
  // Each dict holds the dict before it twice. A full list would have 2^30 tensors.
  auto bomb = "}" + text("w") + small_tensor() + "sq\1";
  for (int i = 0; i < 30; ++i) bomb += "}(" + text("a") + "h\1" + text("b") + "h\1uq\1";
  EXPECT_TRUE(file_fails(ErrorKind::bad_file, "repeat themselves", legacy(pickle(bomb))));
  // Many copies of one list.
  auto copies = "]q\1(" + repeat("N", 60'000) + "e0" + repeat(global("__builtin__", "set") + "h\1\x85R0", 1000) + "N";
  EXPECT_TRUE(refused(ErrorKind::unsupported, "holds more than 10000000 values", pickle(copies)));
}

TEST(PickleHostile, TensorsStayWithinTheirStorage) {
  auto on = storage("FloatStorage", 6);
  std::string past = "a tensor that reaches past its storage", sizes = "with a size or stride";
  EXPECT_NO_THROW(unpickle(pickle(tensor(on, 0, integer(2) + integer(3), integer(3) + integer(1))), "f"));
  EXPECT_NO_THROW(unpickle(pickle(tensor(on, 5, "", "")), "f"));
  EXPECT_TRUE(bad(past, tensor(on, 6, "", "")));
  EXPECT_TRUE(bad(past, tensor(on, 0, integer(7), integer(1))));
  EXPECT_TRUE(bad(past, tensor(on, 1, integer(2) + integer(3), integer(3) + integer(1))));
  EXPECT_TRUE(bad(past, tensor(on, 0, integer(2), integer(6))));
  EXPECT_TRUE(bad(past, tensor(on, -1, integer(1), integer(1))));
  EXPECT_TRUE(bad(past, tensor(on, INT64_MAX, integer(2), integer(INT64_MAX))));
  EXPECT_TRUE(bad(past, tensor(on, 0, integer(INT64_MAX) + integer(4), integer(0) + integer(0))));
  EXPECT_TRUE(bad(sizes, tensor(on, 0, integer(-2), integer(1))));
  EXPECT_TRUE(bad(sizes, tensor(on, 0, integer(2), integer(-1))));
  EXPECT_TRUE(bad(sizes, tensor(on, 0, "N", integer(1))));
  EXPECT_TRUE(bad("more sizes than strides", tensor(on, 0, integer(2), "")));
  EXPECT_TRUE(bad("without proper sizes", tensor(on, 0, repeat(integer(1), 65), repeat(integer(1), 65))));
  EXPECT_TRUE(bad("without storage or offset", tensor("N", 0, integer(2), integer(1))));
  EXPECT_TRUE(bad("a storage whose size overflows", storage("FloatStorage", INT64_MAX)));
  EXPECT_TRUE(bad("a storage without type or size", storage("FloatStorage", -1)));
  EXPECT_TRUE(bad("has 0 arguments", global("torch._utils", "_rebuild_tensor_v2") + ")R"));
  EXPECT_TRUE(
      refused(ErrorKind::unsupported, "type torch.ComplexDoubleStorage", pickle(storage("ComplexDoubleStorage", 1))));
}

TEST(PickleHostile, ReferencesAreToStorages) {
  EXPECT_TRUE(bad("that is not a tuple", "NQ"));
  EXPECT_TRUE(bad("that is not a tuple", ")Q"));
  EXPECT_TRUE(bad("other than a storage", "(" + text("file") + "tQ"));
  EXPECT_TRUE(bad("other than a storage", "(" + text("storage") + "tQ"));
}

TEST(PickleHostile, ViewsOfStoragesStayWithinThem) {
  auto view = [](int64_t offset, int64_t size) {
    return cat({"(", text("storage"), global("torch", "FloatStorage"), text("0"), text("cpu"), integer(4), "(",
                text("v"), integer(offset), integer(size), "ttQ"});
  };
  TemporaryFolder dir;
  std::string floats;
  for (float value : {0.f, 1.f, 2.f, 3.f}) floats += le(value);
  auto file = legacy(pickle(dict(text("w") + tensor(view(1, 2), 0, integer(2), integer(1)))), floats, 4);
  EXPECT_TRUE(same(load_state_dict(dir.write("f.pt", file)).at("w"), at::arange(1, 3, at::kFloat)));
  EXPECT_TRUE(bad("reaches past its storage", view(3, 2)));
  EXPECT_TRUE(bad("reaches past its storage", view(INT64_MAX, INT64_MAX)));
  EXPECT_TRUE(bad("reaches past its storage", view(-1, 1)));
  EXPECT_TRUE(bad("reaches past its storage", tensor(view(1, 2), 0, integer(3), integer(1))));
}

TEST(PickleHostile, ATensorCannotClaimMoreThanTheFileCanMean) {
  auto huge = tensor(storage("FloatStorage", 2), 0, integer(int64_t{1} << 40), integer(0));
  EXPECT_TRUE(file_fails(ErrorKind::bad_file, "repeat themselves", legacy(pickle(dict(text("w") + huge)))));
}

TEST(PickleHostile, TheOlderLayoutIsChecked) {
  auto object = pickle(dict(text("w") + small_tensor()));
  auto good = legacy(object);
  EXPECT_TRUE(file_fails(ErrorKind::unsupported, "big-endian", legacy(object, std::string(8, '\1'), 2, false)));
  EXPECT_TRUE(
      file_fails(ErrorKind::bad_file, "has 3 elements; its tensors say 2", legacy(object, std::string(12, '\1'), 3)));
  EXPECT_TRUE(file_fails(ErrorKind::bad_file, "ends inside storage 0", legacy(object, std::string(7, '\1'), 2)));
  EXPECT_TRUE(file_fails(ErrorKind::unsupported, "that torch.save did not write", pickle(dict(text("w") + "K\1"))));
  EXPECT_TRUE(
      file_fails(ErrorKind::bad_file, "lists a storage that no tensor has", legacy(pickle(dict(text("w") + "K\1")))));
  auto layout = good;
  layout.replace(layout.find(le(uint16_t{1001})), 2, le(uint16_t{1000}));
  EXPECT_TRUE(file_fails(ErrorKind::unsupported, "unknown layout", layout));
  auto other = pickle(dict(text("w") + tensor(storage("FloatStorage", 2, "1"), 0, integer(2), integer(1)) + text("v") +
                           small_tensor()));
  EXPECT_TRUE(file_fails(ErrorKind::bad_file, "has no data for storage 1", legacy(other)));
  auto two = pickle(
      dict(text("w") + small_tensor() + text("v") + tensor(storage("FloatStorage", 4), 2, integer(2), integer(1))));
  EXPECT_TRUE(file_fails(ErrorKind::bad_file, "is described in two ways", legacy(two)));
}

}  // namespace lora
