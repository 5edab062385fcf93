#pragma once
// What applies while a model runs, and the scopes that keep it in place for one thread.
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "lora/added_word.h"
#include "nn/applied.h"
#include "nn/gate.h"
#include "nn/site.h"

namespace lora {

// Words beyond a text encoder's vocabulary: their ids go on where the vocabulary ends, in the order of the rows.
struct AddedRows {
  Tensor rows;  // [rows, dim], of the embedding's dtype
  std::vector<AddedWord> words;
};

// What one model applies. Immutable.
struct Run {
  std::vector<std::shared_ptr<const Applied>> at;  // by Site::index; nullptr where none applies
  std::shared_ptr<const AddedRows> added;          // nullptr for none
  std::string problem;                             // why no run may start with it, such as tensors on another device
};

// What all models of a pipeline apply: one state of everything. Immutable, and replaced as a whole.
struct Runs {
  uint64_t number = 0;                           // counts the changes
  std::vector<std::shared_ptr<const Run>> runs;  // by Parts::component
};

// Who gives the models of a pipeline their runs. Any number of threads may ask.
class RunSource {
 public:
  virtual std::shared_ptr<const Runs> snapshot() const = 0;
  Gate& gate() const { return gate_; }

 protected:
  ~RunSource() = default;

 private:
  mutable Gate gate_;
};

// Pins one snapshot of all models of a source, and their weights, for this thread while it lives. The outermost scope
// goes through the gate and then takes the present snapshot; those inside share both and never wait.
class SnapshotScope {
 public:
  explicit SnapshotScope(const RunSource& source);
  ~SnapshotScope();
  SnapshotScope(const SnapshotScope&) = delete;
  SnapshotScope& operator=(const SnapshotScope&) = delete;

  const std::shared_ptr<const Runs>& snapshot() const { return snapshot_; }
  // Whether this thread is inside a scope of that source.
  static bool inside(const RunSource& source) { return find(source) != nullptr; }

 private:
  friend class RunScope;
  static const SnapshotScope* find(const RunSource& source);

  const RunSource* source_;
  const SnapshotScope* outer_;
  bool entered_;
  std::shared_ptr<const Runs> snapshot_;
};

// Says what one model applies for this thread while it lives. A model opens one in each call.
class RunScope {
 public:
  // What the scope around this one says for the model, or its pipeline's snapshot. Throws Error{conflict} with the
  // run's problem, if it has one.
  explicit RunScope(const Parts& parts);
  // A run of the caller's own.
  RunScope(const Parts& parts, std::shared_ptr<const Run> run);
  ~RunScope();
  RunScope(const RunScope&) = delete;
  RunScope& operator=(const RunScope&) = delete;

  // What applies at a site in the run that this thread is in; nullptr for nothing.
  static const Applied* at(const Site& site);
  // What is added to the vocabulary in the run that this thread is in, else in the one that would start now; nullptr
  // for nothing.
  static std::shared_ptr<const AddedRows> added(const Parts& parts);

 private:
  static const RunScope* find(const Parts& parts);
  void begin(std::shared_ptr<const Run> run);

  const Parts* parts_;
  const RunScope* outer_;
  std::optional<SnapshotScope> pin_;
  std::shared_ptr<const Run> run_;  // nullptr: nothing applies
};

}  // namespace lora
