#include "picture_names.h"

#include <fcntl.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <set>

#include "check.h"
#include "output.h"
#include "output_path.h"

namespace lora::cli {

namespace fs = std::filesystem;

namespace {

bool is_folder(const std::string& output) {
  std::error_code error;
  return output.ends_with('/') || fs::is_directory(output, error);
}

// A name may not have a folder in it.
std::string as_name(std::string text) {
  std::replace(text.begin(), text.end(), '/', '_');
  return text;
}

std::string value_of(const std::string& output, const std::string& word, const NamedPicture& picture, size_t index) {
  if (word == "seed") return std::to_string(picture.seed);
  if (word == "index") return std::to_string(index + 1);
  check(word == "lora", ErrorKind::usage,
        "--output {}: {{{}}} is not known. A name takes {{seed}}, {{index}} and {{lora}}.", output, word);
  return picture.loras.empty() ? "none" : as_name(fmt::format("{}", fmt::join(picture.loras, "+")));
}

// The output with the values of a picture. Braces without their end are text.
std::string filled(const std::string& output, const NamedPicture& picture, size_t index) {
  std::string name;
  size_t at = 0;
  for (auto open = output.find('{'); open != output.npos; open = output.find('{', at)) {
    const auto close = output.find('}', open);
    if (close == output.npos) break;
    name += output.substr(at, open - at) + value_of(output, output.substr(open + 1, close - open - 1), picture, index);
    at = close + 1;
  }
  return name + output.substr(at);
}

// The highest number before a "-" in the names of a folder.
uint64_t highest_number(const fs::path& folder) {
  uint64_t highest = 0;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    const auto name = it->path().filename().string();
    uint64_t number = 0;
    const auto* last = name.data() + name.size();
    auto [dash, failure] = std::from_chars(name.data(), last, number);
    if (failure == std::errc() && dash != last && *dash == '-') highest = std::max(highest, number);
  }
  return highest;
}

// Makes the file, unless it exists.
bool reserved(const fs::path& file) {
  const int fd = ::open(file.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  check(fd >= 0 || errno == EEXIST, ErrorKind::io, "{}: cannot be created: {}", file.string(), std::strerror(errno));
  if (fd >= 0) ::close(fd);
  return fd >= 0;
}

}  // namespace

PictureNames::PictureNames(const std::string& output, size_t count, std::function<NamedPicture(size_t)> picture)
    : output_(output), count_(count), picture_(std::move(picture)), is_folder_(is_folder(output)) {
  if (is_stdout()) {
    check(count == 1, ErrorKind::usage,
          "--output -: stdout takes one picture, and there are {}. Give a folder or a name.", count);
    check(!::isatty(STDOUT_FILENO), ErrorKind::usage,
          "--output -: stdout is a terminal, which cannot show a PNG file. Send it to a file or a program.");
  } else if (is_folder_) {
    check_can_write_file(fs::path(output) / "picture.png");
    last_number_ = highest_number(output);
  } else {
    check_files();
  }
}

// out.png for one picture; out-1.png, out-2.png, … for several.
fs::path PictureNames::file(size_t i) const {
  const auto name = filled(output_, picture_(i), i);
  if (name != output_ || count_ == 1) return name;
  const fs::path path = output_;
  return path.parent_path() / fmt::format("{}-{}{}", path.stem().string(), i + 1, path.extension().string());
}

void PictureNames::check_files() const {
  constexpr size_t kMostDifferent = 100'000;
  check(has_image_ending(output_), ErrorKind::usage,
        "--output {}: give a name that ends in .png, .jpg or .webp, or a folder that exists.", output_);
  const bool differ = filled(output_, picture_(0), 0) != output_;
  check(!differ || count_ <= kMostDifferent, ErrorKind::usage,
        "--output {}: words in braces are for at most {} pictures. Give a folder, or a name without them.", output_,
        kMostDifferent);
  std::set<fs::path> folders, names;
  for (size_t i = 0; i < (differ ? count_ : 1); ++i) {
    const auto path = file(i);
    check(names.insert(path.lexically_normal()).second, ErrorKind::usage,
          "--output {}: two pictures would have the name {}. Add {{index}} to it.", output_, path.string());
    if (folders.insert(path.parent_path()).second) check_can_write_file(path);
    std::error_code error;
    check(!fs::is_directory(path, error), ErrorKind::io, "--output {}: {} is a folder. Give the name of a file.",
          output_, path.string());
  }
}

// The next name of the folder. Another process may take a number meanwhile.
fs::path PictureNames::numbered(uint64_t seed) {
  for (;;) {
    auto place = fs::path(output_) / fmt::format("{:05}-{}.png", ++last_number_, seed);
    if (reserved(place)) return place;
  }
}

fs::path PictureNames::save(size_t i, const Image& image) {
  if (is_stdout()) {
    print_bytes(image.png());
    return {};
  }
  if (!is_folder_) {
    image.save(file(i));
    return file(i);
  }
  const auto place = numbered(picture_(i).seed);
  try {
    image.save(place);
  } catch (...) {
    std::error_code error;
    fs::remove(place, error);
    throw;
  }
  return place;
}

}  // namespace lora::cli
