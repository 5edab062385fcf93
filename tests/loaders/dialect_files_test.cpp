// LoRA files in every spelling and of every algorithm, as their trainers write them: each does exactly what its
// trainer's formula says, or is refused with the reason.
#include <ATen/ATen.h>

#include "loaders/dialect_models.h"
#include "loaders/registry_of.h"
#include "lora/lora_file.h"

namespace lora::dialect_tests {

namespace {

constexpr double kTolerance = 1e-5;  // of the largest value: float32's rounding, added up

const StateDict& expected() {
  static const auto tensors = load_state_dict(folder() / "expected.safetensors");
  return tensors;
}

const json& row_of(const std::string& file) { return cases()["files"][file]; }

std::vector<std::string> names(const json& table, bool flux) {
  std::vector<std::string> all;
  for (const auto& [file, row] : table.items())
    if ((row["model"] == "flux") == flux) all.push_back(file);
  return all;
}

std::string test_name(const testing::TestParamInfo<std::string>& info) {
  auto name = info.param;
  std::replace_if(
      name.begin(), name.end(), [](char c) { return !std::isalnum(static_cast<unsigned char>(c)); }, '_');
  return name;
}

// ΔW or Δb of a layer at strength 1, as the formula has it; undefined for none.
Tensor wanted(const std::string& file, const std::string& component, const std::string& path, const char* kind) {
  auto* found = expected().find(file + "|" + component + "." + path + "." + kind);
  return found ? found->to(at::kDouble) : Tensor();
}

// Within the tolerance of `scale`, the largest value of something that the difference is part of.
void expect_near(const Tensor& got, const Tensor& wanted, const Tensor& scale) {
  ASSERT_EQ(got.sizes(), wanted.sizes());
  auto off = (got.to(at::kDouble) - wanted.to(at::kDouble)).abs().max().item<double>();
  EXPECT_LE(off, kTolerance * scale.abs().max().item<double>());
}

Tensor by_row(const Tensor& factors, const Tensor& W) {
  std::vector<int64_t> shape(W.dim(), 1);
  shape[0] = -1;
  return factors.to(at::kDouble).reshape(shape);
}

Tensor by_input(const Tensor& factors, const Tensor& W) {
  std::vector<int64_t> shape(W.dim(), 1);
  shape[1] = -1;
  return factors.to(at::kDouble).reshape(shape);
}

// All that an effect does to a weight, as one tensor of its shape.
Tensor dense(const Effect& e, const Site& site) {
  auto W = site.weight.to(at::kDouble), changed = W;
  if (e.gain.defined()) changed = changed * by_row(e.gain, W);
  if (e.input_gain.defined()) changed = changed * by_input(e.input_gain, W);
  if (e.weight.defined()) changed = changed + e.weight.to(at::kDouble);
  if (e.A.defined()) {
    auto product = e.scale * at::mm(e.B.to(at::kDouble).flatten(1), e.A.to(at::kDouble).flatten(1));
    changed = changed + (site.kind == SiteKind::embedding ? product.t() : product.reshape(W.sizes()));
  }
  return changed - W;
}

class DialectFile : public testing::TestWithParam<std::string> {
 protected:
  const std::string& file() const { return GetParam(); }
  const json& row() const { return row_of(file()); }
  Pipeline& pipe() const { return Pipeline::of(row()["model"]); }

  void SetUp() override {
    pipe().unload_lora_weights();  // whatever a test that failed has left
    report_ = pipe().load_lora_weights(folder() / file(), {.adapter_name = "a"});
  }
  void TearDown() override {
    pipe().unfuse_lora();
    pipe().unload_lora_weights();
  }

  // Each layer that the file is said to have, with the delta that it became.
  template <class Work>
  void each_layer(Work&& work) {
    for (const auto& [component, layers] : row()["layers"].items()) {
      const auto& registry = registry_of(pipe());
      auto adapter = registry.current()->state.part("a", registry.index_of(component));
      for (const auto& [path, layer] : layers.items()) {
        SCOPED_TRACE(component + "." + path);
        auto it = std::find_if(adapter->entries.begin(), adapter->entries.end(),
                               [&](auto& entry) { return entry.site->path == path; });
        if (it == adapter->entries.end()) {
          ADD_FAILURE() << "was not loaded";
          continue;
        }
        work(component, path, layer, *it);
      }
    }
  }

  LoadReport report_;
};

}  // namespace

TEST_P(DialectFile, IsRecognisedAndWhollyMatched) {
  EXPECT_EQ(report_.dialect, row()["dialect"].get<std::string>());
  EXPECT_EQ(to_string(read_lora(folder() / file()).base_model), row()["architecture"].get<std::string>());
  EXPECT_EQ(report_.unmatched.size(), row().value("unmatched", size_t(0))) << report_.text();
  size_t wanted_layers = 0;
  for (const auto& [component, layers] : row()["layers"].items()) wanted_layers += layers.size();
  EXPECT_EQ(report_.matched_layers(), row().value("matched", wanted_layers)) << report_.text();
  each_layer([&](auto&, auto&, const json& layer, const Adapter::Entry& entry) {
    EXPECT_EQ(entry.delta->algorithm(), layer[0].get<std::string>());
    if (auto rank = layer[1].get<int64_t>()) {
      EXPECT_EQ(entry.delta->rank(), rank);
    }
  });
}

TEST_P(DialectFile, EveryLayerDoesWhatTheFormulaSays) {
  each_layer([&](auto& component, auto& path, const json& layer, const Adapter::Entry& entry) {
    auto dW = wanted(file(), component, path, "weight"), db = wanted(file(), component, path, "bias");
    for (double strength : {1.0, -0.7}) {
      bool linear = layer[2];
      if (strength != 1 && !linear) continue;
      SCOPED_TRACE(strength);
      auto effect = entry.delta->effect(strength, entry.site->weight);
      auto got = dense(effect, *entry.site);
      auto change = dW.defined() ? strength * dW : at::zeros_like(got);
      // Zero must be zero.
      expect_near(got, change, dW.defined() ? dW : at::zeros_like(got));
      EXPECT_EQ(effect.bias.defined(), db.defined());
      if (effect.bias.defined() && db.defined()) expect_near(effect.bias, strength * db, db);
    }
  });
}

// Factors become numbers of the model's dtype. What a file says beside its tensors stays.
TEST_P(DialectFile, LoadsIntoHalfModels) {
  for (auto dtype : {at::kHalf, at::kBFloat16}) {
    Pipeline half(row()["model"], dtype);
    auto report = half.load_lora_weights(folder() / file(), {.adapter_name = "a"});
    EXPECT_EQ(report.matched_layers(), report_.matched_layers());
    EXPECT_EQ(report.unmatched.size(), report_.unmatched.size());
  }
}

// What get_lora_layers gives is the adapter, whole: under its component's name it loads as the same.
TEST_P(DialectFile, ItsLayersLoadAsTheSame) {
  StateDict all;
  std::map<std::string, Tensor> outputs;
  for (const auto& [component, layers] : row()["layers"].items()) {
    outputs[component] = pipe().run(component);
    try {
      auto saved = pipe().get_lora_layers(component, "a");
      for (const auto& [key, tensor] : saved) all.set(component + "." + key, tensor);
    } catch (const Error& error) {  // what only a config or metadata tells
      EXPECT_TRUE(row().value("beyond_tensors", false)) << error.what();
      return;
    }
  }
  EXPECT_FALSE(row().value("beyond_tensors", false));
  pipe().unload_lora_weights();
  auto report = pipe().load_lora_weights(all);
  EXPECT_TRUE(report.unmatched.empty()) << report.text();
  for (const auto& [component, output] : outputs) expect_close(pipe().run(component), output, 1e-6);
}

// Weights with their differences added, in float64 and rounded once.
TEST_P(DialectFile, ActiveAndFusedAreTheMergedModel) {
  auto base = pipe().weights();
  auto merged = base;
  if (row().contains("matched")) return;  // not all of whose differences are known
  for (const auto& [component, layers] : row()["layers"].items())
    for (const auto& [path, layer] : layers.items())
      for (const char* kind : {"weight", "bias"})
        if (auto delta = wanted(file(), component, path, kind); delta.defined()) {
          auto& tensor = merged.at(component + "." + path + "." + kind);
          tensor = (tensor.to(at::kDouble) + delta).to(at::kFloat);
        }

  std::map<std::string, Tensor> outputs;
  for (const auto& [component, layers] : row()["layers"].items()) {
    SCOPED_TRACE(component);
    StateDict tensors;
    for (const auto& [name, tensor] : pipe().model(component).state_dict())
      tensors.set(name, merged.at(component + "." + name));
    outputs[component] = pipe().run_with(component, tensors);
    expect_close(pipe().run(component), outputs[component], kTolerance);
  }

  pipe().fuse_lora();
  for (const auto& [name, tensor] : pipe().weights()) {
    SCOPED_TRACE(name);
    expect_near(tensor, merged.at(name), merged.at(name));
    if (same_bits(merged.at(name), base.at(name))) {
      EXPECT_TRUE(same_bits(tensor, base.at(name)));
    }
  }
  for (const auto& [component, output] : outputs) expect_close(pipe().run(component), output, kTolerance);
  pipe().unfuse_lora();
  for (const auto& [name, tensor] : pipe().weights()) EXPECT_TRUE(same_bits(tensor, base.at(name))) << name;
}

INSTANTIATE_TEST_SUITE_P(All, DialectFile, testing::ValuesIn(names(cases()["files"], false)), test_name);

// Flux has no pipeline here: its files are read, and converted, but not run.
class FluxFile : public testing::TestWithParam<std::string> {};

TEST_P(FluxFile, IsReadIntoDiffusersNames) {
  const auto& file = GetParam();
  const auto& row = row_of(file);
  auto read = read_lora(folder() / file);
  EXPECT_EQ(read.dialect, row["dialect"].get<std::string>());
  EXPECT_EQ(read.base_model, BaseModel::flux);
  EXPECT_TRUE(read.unmatched.empty());
  auto lora = as_state_dict(read);
  size_t layers = 0;
  for (const auto& [path, layer] : row["layers"]["transformer"].items()) {
    SCOPED_TRACE(path);
    auto *A = lora.state_dict.find("transformer." + path + ".lora_A.weight"),
         *B = lora.state_dict.find("transformer." + path + ".lora_B.weight");
    if (!A || !B) {
      ADD_FAILURE() << "is not there";
      continue;
    }
    auto alpha = lora.network_alphas.find("transformer." + path + ".alpha");
    double scale = alpha == lora.network_alphas.end() ? 1 : alpha->second / double(A->size(0));
    auto delta = wanted(file, "transformer", path, "weight");
    expect_near(scale * at::mm(B->to(at::kDouble), A->to(at::kDouble)), delta, delta);
    ++layers;
  }
  EXPECT_EQ(2 * layers, lora.state_dict.size());
}

INSTANTIATE_TEST_SUITE_P(All, FluxFile, testing::ValuesIn(names(cases()["files"], true)), test_name);

class MalformedFile : public testing::TestWithParam<std::string> {};

TEST_P(MalformedFile, IsRefusedOrSaysWhatIsMissing) {
  const auto& row = cases()["malformed"][GetParam()];
  auto& pipe = Pipeline::of(row["model"]);
  auto base = pipe.weights();
  std::string says = row["says"], said;
  bool refused = false;
  try {
    auto report = pipe.load_lora_weights(folder() / GetParam(), {.adapter_name = "a"});
    said = report.text();
    EXPECT_EQ(report.matched_layers(), row.value("layers", size_t(0))) << said;
    EXPECT_EQ(report.unmatched.size(), row.value("unmatched", report.unmatched.size()));
  } catch (const Error& error) {
    refused = true;
    said = error.what();
    if (row.contains("error")) {
      EXPECT_EQ(to_string(error.kind()), row["error"].get<std::string>()) << said;
    }
    EXPECT_TRUE(pipe.get_list_adapters().empty());
  }
  EXPECT_EQ(refused, !row.contains("layers")) << said;
  EXPECT_NE(said.find(says), std::string::npos) << said;
  pipe.unload_lora_weights();
  for (const auto& [name, tensor] : pipe.weights()) EXPECT_TRUE(same_bits(tensor, base.at(name))) << name;
}

INSTANTIATE_TEST_SUITE_P(All, MalformedFile, testing::ValuesIn(names(cases()["malformed"], false)), test_name);

}  // namespace lora::dialect_tests
