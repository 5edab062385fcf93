#pragma once
// What goes wrong between here and the Hub, as the code that decides what to do about it wants to know it.
#include "core/check.h"

namespace lora {

class HubFailure : public Error {
 public:
  enum class Reason {
    connection,  // no server, or not the right one
    broken,      // the connection broke off, or no byte came for too long
    busy,        // the server asks to come again: 408, 429, 5xx
    refused,     // it wants another token
    repository,
    revision,
    entry,   // no such repository, revision or file there
    answer,  // what came is no answer of the Hub
  };
  HubFailure(Reason reason, const std::string& message, double wait = -1)
      : Error(kind_of(reason), message), reason_(reason), wait_(wait) {}

  Reason reason() const { return reason_; }
  double wait() const { return wait_; }  // seconds that the server asks for; negative where it does not
  // Whether what the cache has of the repository may be used in its place: where the Hub is not there, or does not know
  // us, but not where it says that there is no such thing.
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

// No such file at the commit, which the Hub tells.
class HubMissing : public HubFailure {
 public:
  HubMissing(const HubFailure& failure, std::string commit) : HubFailure(failure), commit_(std::move(commit)) {}

  const std::string& commit() const { return commit_; }

 private:
  std::string commit_;
};

}  // namespace lora
