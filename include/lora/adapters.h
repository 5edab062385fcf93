#pragma once
// What a load says about itself, and how strongly adapters act.
#include <functional>
#include <map>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "lora/tensor.h"

namespace lora {

// How strongly an adapter acts. A number; or numbers by component; and a component's by its blocks:
//   0.8
//   {{"unet", 0.8}, {"text_encoder", 0.3}}
//   {{"unet", {{"down", 0.5}, {"mid", 1.0}, {"up", {{"block_0", 0.2}, {"block_1", std::vector{0.1, 0.5, 1.0}}}}}}}
//   {{"text_encoder", {{"layer_0", 0.0}, {"layers_4-11", 0.5}}}}
// A UNet's block covers all layers in it, a list has one number for each of its layers (a sampler goes with the first).
// Components and blocks that are not named have weight 1. In Python's diffusers these are dicts of the same shape.
// Threads: a value; const calls on one object may run on several threads at once.
class LoraScale {
 public:
  using List = std::vector<LoraScale>;
  using Dict = std::vector<std::pair<std::string, LoraScale>>;

  LoraScale(double number = 1.0) : value_(number) {}
  LoraScale(const std::vector<double>& numbers) : value_(List(numbers.begin(), numbers.end())) {}
  LoraScale(List list) : value_(std::move(list)) {}
  LoraScale(Dict dict) : value_(std::move(dict)) {}
  LoraScale(std::initializer_list<Dict::value_type> dict) : value_(Dict(dict)) {}
  // From JSON text of that shape. Throws Error{usage}.
  static LoraScale parse(const std::string& json);

  const double* number() const { return std::get_if<double>(&value_); }
  const List* list() const { return std::get_if<List>(&value_); }
  const Dict* dict() const { return std::get_if<Dict>(&value_); }

 private:
  std::variant<double, List, Dict> value_;
};

// A factor on an adapter's weight over the steps of a run. Threads: the function is called on the thread of the
// pipeline's call, at the start of a step; what it throws leaves that call as it is. Calls on several threads that
// share one function call it at the same time.
class LoraSchedule {
 public:
  LoraSchedule() = default;  // 1 throughout
  // `factor(step, steps)`: steps count from 0.
  template <class Factor>
  requires std::is_invocable_r_v<double, Factor, int, int> LoraSchedule(Factor factor) : factor_(std::move(factor)) {}
  // The number of the last row at or before a step, or 1 before the first row.
  static LoraSchedule by_step(std::map<int, double> table);
  // The same by fractions of the run, from 0 to 1: {{0, 1}, {0.5, 0}} leaves the second half without.
  static LoraSchedule by_fraction(std::map<double, double> table);

  bool constant() const { return !factor_; }
  double operator()(int step, int steps) const { return factor_ ? factor_(step, steps) : 1.0; }

 private:
  std::function<double(int, int)> factor_;
};

// A loaded adapter in one call alone, whatever set_adapters said.
struct CallAdapter {
  std::string name;
  LoraScale weight = 1.0;
  LoraSchedule schedule;
  // Where it acts: [height, width], from 0 to 1, over the picture in any resolution; undefined for everywhere. Layers
  // that see no picture (of text, of time) take it at its mean.
  Tensor mask;
};

// What a load says. Nothing is silent: every tensor of a file is either matched or listed with the reason.
struct LoadReport {
  struct Layer {
    std::string path;       // of the module, as in diffusers
    std::string algorithm;  // "lora"
    int64_t rank = 0;
    double alpha = 0;  // the rank where the file has none
    double scale = 0;  // what multiplies the product of the factors at weight 1
  };
  struct Component {
    std::string name;  // "unet", "text_encoder", …
    std::vector<Layer> layers;
  };
  struct Unmatched {
    std::string key;  // as in the file
    std::string reason;
  };

  std::string adapter_name;
  std::string source;   // the file, or "state dict"
  std::string dialect;  // "kohya", "peft", "diffusers", …; several are joined by " + "
  std::vector<Component> components;
  std::vector<std::string> embeddings;  // words of prompts that now stand for vectors of the file's own
  std::vector<Unmatched> unmatched;
  std::vector<std::string> notes;  // whatever else the caller should know

  size_t matched_layers() const;
  std::string text() const;  // a few lines for people
  std::string json() const;  // the whole of it
};

}  // namespace lora
