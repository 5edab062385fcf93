#include "io/zip.h"

#include <zlib.h>

#include "io/pickles.h"
#include "io/support.h"

namespace lora {

namespace {

struct Record {
  std::string name, stored;
  uint32_t size;
  uint16_t method = 0;
  uint16_t flags = 0;
};

Record plain(const std::string& name, const std::string& content) {
  return {name, content, static_cast<uint32_t>(content.size())};
}

Record deflated(const std::string& name, std::string content) {
  std::string packed(content.size() + 100, '\0');
  z_stream stream{};
  deflateInit2(&stream, 9, Z_DEFLATED, -MAX_WBITS, 9, Z_DEFAULT_STRATEGY);
  stream.next_in = reinterpret_cast<Bytef*>(content.data());
  stream.avail_in = static_cast<uInt>(content.size());
  stream.next_out = reinterpret_cast<Bytef*>(packed.data());
  stream.avail_out = static_cast<uInt>(packed.size());
  deflate(&stream, Z_FINISH);
  packed.resize(stream.total_out);
  deflateEnd(&stream);
  return {name, packed, static_cast<uint32_t>(content.size()), 8};
}

// An archive of an ordinary zip tool: 32-bit fields, one directory at the end.
std::string zip_of(const std::vector<Record>& records) {
  std::string bytes, directory;
  for (const auto& record : records) {
    auto common = le(record.flags) + le(record.method) + le(uint32_t{0}) + le(uint32_t{0}) +
                  le(static_cast<uint32_t>(record.stored.size())) + le(record.size) +
                  le(static_cast<uint16_t>(record.name.size())) + le(uint16_t{0});
    directory += "PK\1\2" + le(uint16_t{20}) + le(uint16_t{20}) + common + std::string(10, '\0') +
                 le(static_cast<uint32_t>(bytes.size())) + record.name;
    bytes += "PK\3\4" + le(uint16_t{20}) + common + record.name + record.stored;
  }
  auto count = static_cast<uint16_t>(records.size());
  return bytes + directory + "PK\5\6" + le(uint32_t{0}) + le(count) + le(count) +
         le(static_cast<uint32_t>(directory.size())) + le(static_cast<uint32_t>(bytes.size())) + le(uint16_t{0});
}

std::string two_floats() { return le(1.0f) + le(2.0f); }

std::vector<Record> checkpoint(Record (*pack)(const std::string&, std::string)) {
  auto object = pickle(dict(text("w") + small_tensor()));
  return {pack("archive/data.pkl", object), pack("archive/data/0", two_floats())};
}

testing::AssertionResult file_fails(ErrorKind kind, const std::string& part, const std::string& bytes) {
  TemporaryFolder dir;
  auto file = dir.write("f.pt", bytes);
  return fails(kind, part, [&] { load_state_dict(file); });
}

Record plain_copy(const std::string& name, std::string content) { return plain(name, content); }

}  // namespace

TEST(Zip, OrdinaryArchivesAreRead) {
  TemporaryFolder dir;
  auto wanted = at::arange(1, 3, at::kFloat);
  EXPECT_TRUE(same(load_state_dict(dir.write("f.pt", zip_of(checkpoint(plain_copy)))).at("w"), wanted));
}

TEST(Zip, CompressedRecordsAreUnpacked) {
  TemporaryFolder dir;
  auto loaded = load_state_dict(dir.write("f.pt", zip_of(checkpoint(deflated))));
  EXPECT_TRUE(same(loaded.at("w"), at::arange(1, 3, at::kFloat)));
  EXPECT_FALSE(pristine(loaded.at("w")).defined());
}

TEST(Zip, CompressionBombsAreRefused) {
  auto object = pickle(dict(text("w") + tensor(storage("ByteStorage", 1 << 20), 0, integer(1 << 20), integer(1))));
  auto bomb = zip_of({plain("archive/data.pkl", object), deflated("archive/data/0", std::string(1 << 20, '\0'))});
  EXPECT_TRUE(file_fails(ErrorKind::bad_file, "repeat themselves", bomb));
  Record liar = deflated("archive/data.pkl", object);
  liar.size = UINT32_MAX - 1;
  EXPECT_TRUE(file_fails(ErrorKind::bad_file, "claim more than 32 times", zip_of({liar})));
}

TEST(Zip, DamagedCompressionIsRefused) {
  auto records = checkpoint(deflated);
  records[0].stored[3] ^= 0x55;
  records[0].stored[10] ^= 0x55;
  EXPECT_TRUE(file_fails(ErrorKind::bad_file, "f.pt: ", zip_of(records)));
  records = checkpoint(deflated);
  records[0].size += 1;
  EXPECT_TRUE(file_fails(ErrorKind::bad_file, "cannot be unpacked", zip_of(records)));
}

TEST(Zip, RefusesWhatIsNoCheckpoint) {
  EXPECT_TRUE(file_fails(ErrorKind::bad_file, "has no end; the file is cut off", "PK\3\4" + std::string(100, 'x')));
  EXPECT_TRUE(file_fails(ErrorKind::bad_file, "without a data.pkl", zip_of({plain("readme.txt", "hello")})));
  EXPECT_TRUE(file_fails(ErrorKind::bad_file, "it holds readme.txt", zip_of({plain("readme.txt", "hello")})));
  EXPECT_TRUE(
      file_fails(ErrorKind::bad_file, "it holds style/ink.safetensors: unpack it",
                 zip_of({plain("style/", ""), plain("preview.png", "x"), plain("style/ink.safetensors", "y")})));
  EXPECT_TRUE(file_fails(ErrorKind::bad_file, "without a data.pkl", zip_of({})));
  auto records = checkpoint(plain_copy);
  records.push_back(plain("archive/constants.pkl", ""));
  EXPECT_TRUE(file_fails(ErrorKind::unsupported, "TorchScript", zip_of(records)));
  records = checkpoint(plain_copy);
  records.push_back(plain("archive/byteorder", "big"));
  EXPECT_TRUE(file_fails(ErrorKind::unsupported, "big-endian", zip_of(records)));
  records = checkpoint(plain_copy);
  records.pop_back();
  EXPECT_TRUE(file_fails(ErrorKind::bad_file, "has no record for storage 0", zip_of(records)));
  records = checkpoint(plain_copy);
  records[1] = plain("archive/data/0", "1234567");
  EXPECT_TRUE(file_fails(ErrorKind::bad_file, "storage 0 has 7 bytes; its tensors need 8", zip_of(records)));
}

TEST(Zip, RefusesUnknownRecords) {
  auto records = checkpoint(plain_copy);
  records[1].flags = 1;
  EXPECT_TRUE(file_fails(ErrorKind::unsupported, "record \"archive/data/0\" is encrypted", zip_of(records)));
  records[1].flags = 0;
  records[1].method = 12;
  EXPECT_TRUE(file_fails(ErrorKind::unsupported, "a method other than deflate", zip_of(records)));
  records[1].method = 0;
  records[1].size = 9;
  EXPECT_TRUE(file_fails(ErrorKind::bad_file, "has two sizes, 8 and 9", zip_of(records)));
  records = checkpoint(plain_copy);
  records.push_back(records[1]);
  EXPECT_TRUE(file_fails(ErrorKind::bad_file, "has the record \"archive/data/0\" twice", zip_of(records)));
}

TEST(Zip, ADirectoryThatLiesIsRefused) {
  auto good = zip_of(checkpoint(plain_copy));
  size_t end = good.rfind("PK\5\6");
  auto with = [&](size_t at, const std::string& value) {
    auto bytes = good;
    return bytes.replace(end + at, value.size(), value);
  };
  EXPECT_TRUE(file_fails(ErrorKind::bad_file, "records in a directory of", with(10, le(uint16_t{60000}))));
  EXPECT_TRUE(file_fails(ErrorKind::bad_file, "record 3 of 3 is not in the directory", with(10, le(uint16_t{3}))) ||
              file_fails(ErrorKind::bad_file, "3 records in a directory of", with(10, le(uint16_t{3}))));
  EXPECT_TRUE(file_fails(ErrorKind::bad_file, "reach past its end", with(12, le(uint32_t{0xFFFFFFF0}))));
  EXPECT_TRUE(file_fails(ErrorKind::bad_file, "reach past its end", with(16, le(uint32_t{0xFFFFFFF0}))));
  EXPECT_TRUE(file_fails(ErrorKind::bad_file, "is not in the directory", with(16, le(uint32_t{1}))));
  // A record's position.
  auto moved = good;
  size_t central = moved.find("PK\1\2");
  moved.replace(central + 42, 4, le(uint32_t{1}));
  EXPECT_TRUE(file_fails(ErrorKind::bad_file, "no record at byte 1", moved));
}

TEST(Zip, Zip64IsRead) {
  // torch writes it for every file.
  auto bytes = read_bytes(data("plain.pt"));
  ZipFile zip(bytes, "f");
  ASSERT_TRUE(zip.find("plain/data.pkl"));
  EXPECT_EQ(zip.stored(*zip.find("plain/byteorder")), "little");
}

}  // namespace lora
