#pragma once
// How strongly adapters act, and what a load reports.
#include <functional>
#include <initializer_list>
#include <map>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "lora/tensor.h"

namespace lora {

// How strongly an adapter acts: a number, or numbers by component. Those of a component can be by block.
// Example:
//   lora::LoraScale number = 0.8;
//   lora::LoraScale component = {{"unet", 0.8}, {"text_encoder", 0.3}};
//   lora::LoraScale block = {{"unet", {{"down", 0.5}, {"mid", 1.0}, {"up", {{"block_1", {0.1, 0.5, 1.0}}}}}}};
//   lora::LoraScale layers = {{"text_encoder", {{"layer_0", 0.0}, {"layers_4-11", 0.5}}}};
// In Python's diffusers these are dicts and lists of the same shape. A component or block that is not named has the
// weight 1. The weight of a UNet's block covers all layers in it. A list has one number for each layer of the block;
// the block's sampler takes the first. One number in braces is that number.
// Threads: a value. Const calls on one object may run on several threads at once.
class LoraScale {
 public:
  using List = std::vector<LoraScale>;
  using Dict = std::vector<std::pair<std::string, LoraScale>>;

  LoraScale(double number = 1.0) : value_(number) {}
  LoraScale(const std::vector<double>& numbers) : value_(List(numbers.begin(), numbers.end())) {}
  LoraScale(std::initializer_list<double> numbers);
  LoraScale(List list) : value_(std::move(list)) {}
  LoraScale(Dict dict) : value_(std::move(dict)) {}
  LoraScale(std::initializer_list<Dict::value_type> dict) : value_(Dict(dict)) {}
  // Reads JSON text of that shape. Throws Error{usage} for other text.
  static LoraScale parse(std::string_view json);

  // What it holds; nullptr where it holds another form.
  const double* number() const { return std::get_if<double>(&value_); }
  const List* list() const { return std::get_if<List>(&value_); }
  const Dict* dict() const { return std::get_if<Dict>(&value_); }

 private:
  std::variant<double, List, Dict> value_;
};

inline LoraScale::LoraScale(std::initializer_list<double> numbers) {
  if (numbers.size() == 1)
    value_ = *numbers.begin();
  else
    value_ = List(numbers.begin(), numbers.end());
}

// The weights of several adapters: one for all of them, or one for each.
//   0.7                         for all
//   {{"unet", 0.5}}             for all, by component
//   {0.7, 0.4}                  one each
//   {{{"unet", 0.5}}, 0.4}      one each, the first by component
// The default is 1 for all. Threads: a value, as LoraScale.
class AdapterWeights {
 public:
  AdapterWeights() : weights_{1.0} {}
  AdapterWeights(double for_all) : weights_{for_all} {}
  AdapterWeights(LoraScale for_all) : weights_{std::move(for_all)} {}
  AdapterWeights(LoraScale::Dict for_all) : weights_{std::move(for_all)} {}
  AdapterWeights(std::initializer_list<LoraScale::Dict::value_type> for_all) : weights_{LoraScale(for_all)} {}
  AdapterWeights(std::vector<LoraScale> each) : weights_(std::move(each)) {}
  AdapterWeights(const std::vector<double>& each) : weights_(each.begin(), each.end()) {}
  AdapterWeights(std::initializer_list<LoraScale> each) : weights_(each) {}

  // The weight of each of `count` adapters. A single weight is for all of them, and an empty list means 1. Throws
  // Error{usage}, whose message begins with `where`, for another number of weights.
  std::vector<LoraScale> of(size_t count, std::string_view where) const;

 private:
  std::vector<LoraScale> weights_;
};

// A factor on an adapter's weight, over the steps of a call of the pipeline. The default is 1 at every step.
// Threads: the call calls the function on its own thread, at the start of each step. What the function throws passes
// through the call unchanged. Several calls that share one function may call it at the same time.
class LoraSchedule {
 public:
  LoraSchedule() = default;
  // Calls `factor(step, steps)`. Steps count from 0.
  template <class Factor>
  requires std::is_invocable_r_v<double, Factor, int, int> LoraSchedule(Factor factor) : factor_(std::move(factor)) {}
  // The factor of each step is that of the last row at or before it. Before the first row it is 1.
  static LoraSchedule by_step(std::map<int, double> table);
  // The same by fractions of the call, from 0 to 1. With {{0, 1}, {0.5, 0}} the adapter acts in the first half alone.
  static LoraSchedule by_fraction(std::map<double, double> table);

  bool constant() const { return !factor_; }  // whether it is the default
  double operator()(int step, int steps) const { return factor_ ? factor_(step, steps) : 1.0; }

 private:
  std::function<double(int, int)> factor_;
};

// A loaded adapter as one call of a pipeline uses it. set_adapters() does not matter to that call.
struct CallAdapter {
  std::string name;
  LoraScale weight = 1.0;
  LoraSchedule schedule;
  // Where the adapter acts: [height, width], numbers from 0 to 1, over the whole picture, of any resolution. An
  // undefined tensor means everywhere. Layers that do not see the picture (of text, of time) take the mask's mean.
  Tensor mask;
};

// What a load reports. Every tensor of the file is either matched, or listed in `unmatched` with the reason.
struct LoadReport {
  struct Layer {
    std::string path;       // of the module, as in diffusers
    std::string algorithm;  // "lora"
    int64_t rank = 0;
    double alpha = 0;  // the rank, where the file does not say an alpha
    double scale = 0;  // multiplies the product of the factors at weight 1
  };
  struct Component {
    std::string name;  // "unet", "text_encoder", …
    std::vector<Layer> layers;
  };
  struct Unmatched {
    std::string key;  // as in the file
    std::string reason;
  };

  std::string adapter_name;  // empty for a textual inversion
  std::string source;        // the file, or "state dict"
  std::string dialect;       // "kohya", "peft", "diffusers", …; several are joined by " + "
  std::vector<Component> components;
  std::vector<std::string> embeddings;  // words that prompts may have now: the file brings their vectors
  std::vector<Unmatched> unmatched;
  std::vector<std::string> notes;  // what else the caller should know

  size_t matched_layers() const;  // over all components
  std::string text() const;       // a few lines for people
  std::string json() const;       // the whole report
};

}  // namespace lora
