#pragma once
// A failed request to the Hub, with the reason. The reason decides whether a retry or the cache can help.
#include "core/check.h"

namespace lora {

class HubFailure : public Error {
 public:
  enum class Reason {
    connection,  // no server found, no answer, or an untrusted certificate
    broken,      // the connection broke off, or no byte came for too long
    busy,        // the server asks to retry later: 408, 429, 5xx
    refused,     // the server wants a token, or a different one
    repository,  // the Hub has no such repository, or hides it
    revision,    // the repository has no such revision
    entry,       // the revision has no such file
    answer,      // the answer does not come from the Hub, or is malformed
  };
  HubFailure(Reason reason, const std::string& message, double wait = -1)
      : Error(kind_of(reason), message), reason_(reason), wait_(wait) {}

  Reason reason() const { return reason_; }
  // The seconds to wait that the server asks for. Negative if it does not ask.
  double wait() const { return wait_; }
  // Whether the call may use the cache in place of the Hub. False if the Hub answered that the revision or file does
  // not exist. True for all other reasons: the Hub is unreachable, rejects the token, …
  bool cache_will_do() const { return reason_ != Reason::revision && reason_ != Reason::entry; }

 private:
  static ErrorKind kind_of(Reason reason) {
    switch (reason) {
      case Reason::connection:
      case Reason::broken:
      case Reason::busy: return ErrorKind::network;
      case Reason::refused: return ErrorKind::forbidden;
      case Reason::repository:
      case Reason::revision:
      case Reason::entry: return ErrorKind::not_found;
      case Reason::answer: return ErrorKind::bad_file;
    }
    return ErrorKind::network;
  }

  Reason reason_;
  double wait_;
};

// The Hub answered that the commit has no such file.
class HubMissing : public HubFailure {
 public:
  HubMissing(const HubFailure& failure, std::string commit) : HubFailure(failure), commit_(std::move(commit)) {}

  const std::string& commit() const { return commit_; }

 private:
  std::string commit_;
};

}  // namespace lora
