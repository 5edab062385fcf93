#include <random>

#include "io/picture.h"
#include "io/support.h"
#include "io/tensor_sizes.h"
#include "lora/image.h"

namespace lora {

namespace {

constexpr int kRounds = 4000;

// Makes a few random edits: changes bits and bytes, writes extreme numbers, cuts parts, repeats parts.
std::string mutated(std::string bytes, std::mt19937& random) {
  auto below = [&](size_t n) { return static_cast<size_t>(random() % std::max<size_t>(n, 1)); };
  for (size_t edits = 1 + below(3); edits > 0 && !bytes.empty(); --edits) {
    size_t at = below(bytes.size()), length = 1 + below(std::min<size_t>(bytes.size() - at, 40));
    switch (below(6)) {
      case 0: bytes[at] = static_cast<char>(bytes[at] ^ (1 << below(8))); break;
      case 1: bytes[at] = static_cast<char>(random()); break;
      case 2:
        bytes.replace(at, std::min<size_t>(length, 8),
                      std::string(std::min<size_t>(length, 8), below(2) ? '\xff' : '\0'));
        break;
      case 3: bytes.erase(at, length); break;
      case 4: bytes.insert(below(bytes.size()), bytes.substr(at, length)); break;
      default:
        if (below(8) == 0)
          bytes.resize(at);
        else
          bytes[at] = static_cast<char>(bytes[at] + 1);
    }
  }
  return bytes;
}

// Reads every byte of the tensors.
double touch(const StateDict& tensors) {
  double sum = 0;
  for (const auto& [name, tensor] : tensors) {
    auto dense = tensor.contiguous();
    auto* bytes = static_cast<const uint8_t*>(dense.const_data_ptr());
    for (size_t i = 0; i < dense.nbytes(); ++i) sum += bytes[i];
  }
  return sum;
}

}  // namespace

class Fuzz : public testing::TestWithParam<const char*> {};

TEST_P(Fuzz, MutatedFilesLoadOrThrowAnError) {
  MemoryFile memory;
  std::mt19937 random(20240607);
  auto original = read_bytes(data(GetParam()));
  int loaded = 0, refused = 0;
  for (int round = 0; round < kRounds; ++round) {
    auto file = memory.write(mutated(original, random));
    try {
      touch(load_state_dict(file));
      ++loaded;
    } catch (const Error&) {
      ++refused;
    }
    try {
      load_tensor_sizes(file);
    } catch (const Error&) {
    }
  }
  EXPECT_EQ(loaded + refused, kRounds);
  EXPECT_GT(refused, kRounds / 10);  // or the mutations do nothing
}

INSTANTIATE_TEST_SUITE_P(Files, Fuzz,
                         testing::Values("dtypes.safetensors", "shapes.safetensors", "plain.pt", "plain_legacy.pt",
                                         "lightning.pt", "views_legacy.pt", "parameters.pt", "new_dtypes.pt",
                                         "protocol5_legacy.pt"),
                         [](const auto& test) {
                           std::string name = test.param;
                           std::replace(name.begin(), name.end(), '.', '_');
                           return name;
                         });

TEST(Fuzz, MutatedPicturesLoadOrThrowAnError) {
  std::mt19937 random(20240607);
  for (auto name : {"rgb.png", "palette_alpha.png", "grey16.png", "bit.png", "a1111.jpg", "progressive.jpg", "cmyk.jpg",
                    "a1111.webp", "lossy_alpha.webp", "lossless.webp"}) {
    auto original = read_bytes(data(name));
    int refused = 0;
    for (int round = 0; round < kRounds; ++round) {
      try {
        decode_picture(mutated(original, random), "f");
      } catch (const Error&) {
        ++refused;
      }
    }
    EXPECT_GT(refused, kRounds / 10);
  }
}

}  // namespace lora
