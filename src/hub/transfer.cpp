#include "hub/transfer.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <chrono>

#include "hub/following_hash.h"
#include "hub/names.h"

namespace lora {

namespace fs = std::filesystem;
using Reason = HubFailure::Reason;

namespace {

constexpr int kAttempts = 6;
constexpr size_t kPiece = 512 << 10;
constexpr auto kSoon = std::chrono::milliseconds(100);  // so that slow connections also show progress

constexpr auto kMakeRoom = "make room (`lora cache`), or set HF_HUB_CACHE or cache_dir to another disk";

std::string reason(int error) { return std::generic_category().message(error); }

// Parsed from "bytes 100-199/200". Without a total if that is "*".
struct ContentRange {
  uint64_t begin = 0;
  std::optional<uint64_t> total;
};
std::optional<ContentRange> parse_range(const std::string& text) {
  constexpr std::string_view kUnit = "bytes ";
  if (!text.starts_with(kUnit)) return {};
  ContentRange range;
  auto* end = text.data() + text.size();
  auto [dash, error] = std::from_chars(text.data() + kUnit.size(), end, range.begin);
  if (error != std::errc() || dash == end || *dash != '-') return {};
  auto slash = text.find('/');
  if (slash == text.npos) return {};
  uint64_t total = 0;
  if (std::from_chars(text.data() + slash + 1, end, total).ec == std::errc()) range.total = total;
  return range;
}

bool is_web_page(const HttpAnswer& answer, const std::string& file) {
  return answer.header("content-type").starts_with("text/html") && !file.ends_with(".html") && !file.ends_with(".htm");
}

class Incoming {
 public:
  Incoming(HubClient& client, Meter& meter, const Blob& blob, const fs::path& path)
      : client_(client), meter_(meter), blob_(blob), path_(path), label_(blob.place.label()) {
    fd_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    check(fd_ >= 0, ErrorKind::io, "{}: {} cannot be written: {}", label_, path.string(), reason(errno));
    struct stat status {};
    ::fstat(fd_, &status);
    size_ = uint64_t(status.st_size);
  }
  ~Incoming() {
    hash_.reset();
    ::close(fd_);
  }

  void run(bool anew) {
    if (anew || (blob_.size && size_ > *blob_.size)) cut();
    check_space();
    begin_hash();
    if (blob_.size) meter_.expect_bytes(*blob_.size);
    meter_.add(blob_.place.file, int64_t(size_));
    bool went_on = size_ > 0;
    fetch();
    if (!is_right()) {
      cut();
      check(
          went_on, ErrorKind::bad_file,
          "{}: the downloaded bytes do not have the digest that the Hub announced, and were deleted; try again; if it "
          "fails again, check the proxy and HF_ENDPOINT",
          label_);
      fetch();  // the bytes of an earlier call may have been damaged
      check(is_right(), ErrorKind::bad_file, "{}: the downloaded bytes do not have the digest that the Hub announced",
            label_);
    }
  }

 private:
  HubClient& client_;
  Meter& meter_;
  const Blob& blob_;
  const fs::path& path_;
  std::string label_;
  int fd_ = -1;
  uint64_t size_ = 0;    // in the file
  std::string waiting_;  // bytes to be written after those
  std::chrono::steady_clock::time_point written_{};
  std::optional<uint64_t> announced_;  // the size of the whole file, from the present answer
  std::unique_ptr<FollowingHash> hash_;

  void begin_hash() {
    if (is_sha256(blob_.etag))
      hash_ = std::make_unique<FollowingHash>(fd_, std::make_unique<Sha256>());
    else if (is_sha1(blob_.etag) && blob_.size)  // git hashes a header before the blob
      hash_ =
          std::make_unique<FollowingHash>(fd_, std::make_unique<Sha1>(), fmt::format("blob {}", *blob_.size) + '\0');
    if (hash_) hash_->grown(size_);
  }

  // Syncs first: the other thread computes the digest in the meantime.
  bool is_right() {
    check(::fsync(fd_) == 0, ErrorKind::io, "{}: {} cannot be written: {}", label_, path_.string(), reason(errno));
    return !hash_ || hash_->digits() == blob_.etag;
  }

  void cut() {
    check(::ftruncate(fd_, 0) == 0, ErrorKind::io, "{}: {} cannot be written: {}", label_, path_.string(),
          reason(errno));
    if (hash_) {
      meter_.add(blob_.place.file, -int64_t(size_));
      hash_->grown(0);
    }
    size_ = 0;
    waiting_.clear();
    written_ = std::chrono::steady_clock::now();
  }

  void check_space() const {
    struct statvfs disk {};
    if (!blob_.size || ::statvfs(path_.parent_path().c_str(), &disk) != 0) return;
    uint64_t free = uint64_t(disk.f_bavail) * disk.f_frsize, wanted = *blob_.size - size_;
    if (free >= wanted) return;
    if (size_ == 0) ::unlink(path_.c_str());
    fail(ErrorKind::io, "{}: the disk of {} has {:.1f} MB free, but the download needs {:.1f} MB; {}", label_,
         path_.parent_path().string(), double(free) / 1e6, double(wanted) / 1e6, kMakeRoom);
  }

  void fetch() {
    uint64_t before = size_;
    client_.with_patience(
        kAttempts,
        [&] {
          before = size_;
          if (blob_.size && size_ == *blob_.size) return;
          try {
            client_.get(blob_.place, size_, [&](const HttpAnswer& answer) { return begin(answer); });
          } catch (const Error& error) {
            bool ends_early = error.kind() == ErrorKind::network || error.kind() == ErrorKind::cancelled;
            if (ends_early) write_waiting();
            throw;
          }
          write_waiting();
          if (announced_ && size_ < *announced_)
            throw HubFailure(Reason::broken, fmt::format("{}: the connection broke off after {} of {} bytes", label_,
                                                         size_, *announced_));
        },
        [&] { return size_ > before; });
  }

  Http::Sink begin(const HttpAnswer& answer) {
    announced_ = blob_.size;
    if (answer.status == 416) {
      auto end = size_;
      cut();
      throw HubFailure(Reason::broken,
                       fmt::format("{}: the server says that the file ends before byte {}", label_, end));
    }
    check(!is_web_page(answer, blob_.place.file), ErrorKind::bad_file,
          "{}: {} sends a web page in place of the file; does the network require a login, or does a proxy refuse?",
          label_, shown_url(answer.url));
    uint64_t total = 0;
    if (answer.status == 206) {
      auto range = parse_range(answer.header("content-range"));
      check(size_ > 0 && range && range->begin == size_, ErrorKind::bad_file,
            "{}: {} sends another part of the file than the requested one", label_, shown_url(answer.url));
      total = range->total.value_or(blob_.size.value_or(0));
    } else {
      if (size_ > 0) cut();  // a server without ranges sends the file from its beginning
      auto length = answer.header("content-length");
      std::from_chars(length.data(), length.data() + length.size(), total);
      if (length.empty()) total = blob_.size.value_or(0);
    }
    check(!blob_.size || total == *blob_.size, ErrorKind::bad_file,
          "{}: {} sends {} bytes, but the Hub announced {}; try again; if it fails again, check the proxy", label_,
          shown_url(answer.url), total, blob_.size.value_or(0));
    if (total) announced_ = total;
    return [this](std::string_view bytes) { take(bytes); };
  }

  // curl gives pieces of 16 KB. To write each piece would cost more than to receive it.
  void take(std::string_view bytes) {
    check(!announced_ || size_ + waiting_.size() + bytes.size() <= *announced_, ErrorKind::bad_file,
          "{}: the server sends more than the announced {} bytes", label_, announced_.value_or(0));
    waiting_ += bytes;
    if (waiting_.size() >= kPiece || std::chrono::steady_clock::now() - written_ > kSoon) write_waiting();
    meter_.check_stop();
  }

  void write_waiting() {
    for (size_t done = 0; done < waiting_.size();) {
      auto written = ::pwrite(fd_, waiting_.data() + done, waiting_.size() - done, off_t(size_ + done));
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) fail_to_write(errno);
      done += size_t(written);
    }
    size_ += waiting_.size();
    if (hash_) hash_->grown(size_);
    meter_.add(blob_.place.file, int64_t(waiting_.size()));
    waiting_.clear();
  }

  [[noreturn]] void fail_to_write(int error) {
    bool is_full = error == ENOSPC || error == EDQUOT;
    if (is_full) ::unlink(path_.c_str());  // other programs need the space
    fail(ErrorKind::io, "{}: {} cannot be written after {} bytes: {}{}{}", label_, path_.string(), size_, reason(error),
         is_full ? "; " : "", is_full ? kMakeRoom : "");
  }
};

}  // namespace

void transfer(HubClient& client, Meter& meter, const Blob& blob, const fs::path& file, bool anew) {
  Incoming(client, meter, blob, file).run(anew);
}

}  // namespace lora
