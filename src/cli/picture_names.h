#pragma once
// Where the pictures of a call go, and how they are called.
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "lora/image.h"

namespace lora::cli {

// For the help of --output.
inline constexpr const char* kOutputHelp =
    "The file to write: .png, .jpg or .webp. Numbers are added to its name where there are several pictures, unless "
    "the name has {index}, {seed} or {lora}. A folder gets numbered PNG files. - writes one PNG to stdout.";

// What a name can have of a picture.
struct NamedPicture {
  uint64_t seed = 0;
  std::vector<std::string> loras;  // their names
};

// `output` is one of these:
//   NAME.png     .jpg, .jpeg or .webp too. Several pictures become NAME-1.png, NAME-2.png, …
//   with braces  {seed}, {index} (from 1) and {lora} (joined by "+", or "none") in the name or its folder
//   FOLDER       or FOLDER/: pictures become 00001-SEED.png, and never replace a file: the numbers go on
//   -            one PNG file to stdout
class PictureNames {
 public:
  // `picture` says what the name of each of `count` pictures can have. Checks the names before the work. Throws
  // Error{usage} for an unknown ending, an unknown word in braces, two pictures of one name, and "-" for several
  // pictures or a terminal. Throws Error{io} for folders that do not exist or cannot be written.
  PictureNames(const std::string& output, size_t count, std::function<NamedPicture(size_t)> picture);

  bool is_stdout() const { return output_ == "-"; }
  // Writes picture `i`. Returns its file; empty for stdout.
  std::filesystem::path save(size_t i, const Image& image);

 private:
  std::filesystem::path numbered(uint64_t seed);
  std::filesystem::path file(size_t i) const;
  void check_files() const;

  std::string output_;
  size_t count_;
  std::function<NamedPicture(size_t)> picture_;
  bool is_folder_;
  uint64_t last_number_ = 0;  // in the folder
};

}  // namespace lora::cli
