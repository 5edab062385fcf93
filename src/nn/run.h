#pragma once
// What applies while a model runs, and the scopes that pin it for one thread.
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "lora/added_word.h"
#include "nn/applied.h"
#include "nn/gate.h"
#include "nn/site.h"
#include "nn/weights.h"

namespace lora {

// Words that are added to the vocabulary of a text encoder. Their ids follow those of the vocabulary, in the order of
// the rows.
struct AddedRows {
  Tensor rows;  // [rows, dim], in the dtype of the embedding
  std::vector<AddedWord> words;
};

// What one model applies. Immutable, so threads may share it.
struct Run {
  std::vector<std::shared_ptr<const Applied>> at;  // by Site::index; nullptr if nothing applies there
  std::shared_ptr<const AddedRows> added;          // nullptr if no words are added
  std::string problem;                             // if not empty, runs cannot start, and this is the reason
};

// What all models of a pipeline apply at one time. Immutable; a change publishes a new object.
struct Runs {
  uint64_t number = 0;                           // the number of changes before this one
  std::vector<std::shared_ptr<const Run>> runs;  // by Parts::component
};

// The object that gives the models of a pipeline their runs. Threads: any number may call it at the same time.
class RunSource {
 public:
  virtual std::shared_ptr<const Runs> snapshot() const = 0;
  Gate& gate() const { return gate_; }

 protected:
  ~RunSource() = default;

 private:
  mutable Gate gate_;
};

// Pins one snapshot of a source and all weights of its models, for this thread, until the scope ends. The outermost
// scope enters the gate and then takes the present snapshot. Nested scopes share both and never wait.
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

// Sets what one model applies on this thread, until the scope ends. Each call of a model opens one. The weights of the
// model are in memory while it exists.
class RunScope {
 public:
  // Takes the run of the enclosing RunScope of this model, or else that of the pipeline's snapshot. Throws
  // Error{conflict} with Run::problem if the run has one.
  explicit RunScope(const Parts& parts);
  // Takes the given run; nullptr applies nothing. Throws in the same way.
  RunScope(const Parts& parts, std::shared_ptr<const Run> run);
  ~RunScope();
  RunScope(const RunScope&) = delete;
  RunScope& operator=(const RunScope&) = delete;

  // What applies at a site in the present run of this thread; nullptr if nothing applies.
  static const Applied* at(const Site& site);
  // The rows that are added to the vocabulary in the present run of this thread. Without one, those of the run that
  // would start now. nullptr if there are none.
  static std::shared_ptr<const AddedRows> added(const Parts& parts);

 private:
  static const RunScope* find(const Parts& parts);
  void begin(std::shared_ptr<const Run> run);

  const Parts* parts_;
  const RunScope* outer_;
  std::optional<SnapshotScope> pin_;
  WeightsHold hold_;                // ends before the pin
  std::shared_ptr<const Run> run_;  // nullptr if nothing applies
};

}  // namespace lora
