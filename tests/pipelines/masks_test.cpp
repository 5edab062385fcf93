// Masks act at each layer's own places: every linear layer and convolution of every denoiser against a float64
// reference that multiplies the low-rank term by hand (tools/reference/make_masks.py).
#include <ATen/ATen.h>

#include <variant>

#include "loaders/call_adapters.h"
#include "loaders/registry_of.h"
#include "lora/denoisers.h"
#include "models/reference_model.h"
#include "support/compare.h"

namespace lora {

namespace {

using nlohmann::json;

const json& cases() {
  static const json all = json::parse(std::ifstream(test_data() / "masks" / "cases.json"));
  return all;
}

std::vector<std::string> names() {
  std::vector<std::string> all;
  for (const auto& [name, row] : cases().items()) all.push_back(name);
  return all;
}

using Denoiser = std::variant<UNet2DConditionModel, SD3Transformer2DModel, UVit2DModel>;

Denoiser open(const json& row) {
  auto model = reference::read(row["models"])[row["case"].get<std::string>()];
  auto config = model["config"].dump();
  auto tensors = reference::tensors_of(model["layers"]);
  auto file = row["models"].get<std::string>();
  if (file.starts_with("unet")) return UNet2DConditionModel::from_state_dict(config, tensors, {.dtype = at::kFloat});
  if (file.starts_with("sd3")) return SD3Transformer2DModel::from_state_dict(config, tensors, {.dtype = at::kFloat});
  return UVit2DModel::from_state_dict(config, tensors, {.dtype = at::kFloat});
}

// A pipeline that has only a denoiser.
struct Pipeline : LoraBaseMixin {
  explicit Pipeline(const json& row) : denoiser(open(row)) {
    auto* model = std::visit([](auto& m) -> Model* { return &m; }, denoiser);
    adapt({{component = row["models"].get<std::string>().starts_with("unet") ? "unet" : "transformer", model}});
  }
  Denoiser denoiser;
  std::string component;
};

// The inputs of a case, by their names.
struct Inputs {
  const std::string& name;
  const json& row;

  Tensor operator()(const std::string& argument) const {
    auto it = row.find(argument);
    if (it == row.end()) return {};
    if (it->contains("values")) {
      auto values = (*it)["values"].get<std::vector<double>>();
      return at::tensor(values, at::kDouble).to(at::kFloat);
    }
    auto shape = (*it)["shape"].get<std::vector<int64_t>>();
    if ((*it)["make"] == "tokens") return reference::tokens(name + "." + argument, shape, (*it)["count"]);
    auto made = reference::input(name + "." + argument, shape);
    return it->contains("times") ? (made * (*it)["times"].get<double>()).round() : made;
  }
};

Tensor run(const UNet2DConditionModel& unet, const Inputs& in) {
  return unet(in("sample"), in("timestep").to(at::kLong), in("context"),
              {.text_embeds = in("text_embeds"), .time_ids = in("time_ids"), .timestep_cond = in("timestep_cond")});
}

Tensor run(const SD3Transformer2DModel& transformer, const Inputs& in) {
  return transformer(in("hidden_states"), in("encoder_hidden_states"), in("pooled_projections"), in("timestep"));
}

Tensor run(const UVit2DModel& transformer, const Inputs& in) {
  return transformer(in("ids"), in("context"), in("pooled"), in("sizes"));
}

class Masks : public testing::TestWithParam<std::string> {};

}  // namespace

TEST_P(Masks, ActAtThePlacesOfEveryLayer) {
  const auto name = GetParam();
  const auto& row = cases()[name];
  const auto expected = load_state_dict(test_data() / "masks" / "expected.safetensors");
  Pipeline pipe(row);
  StateDict factors;
  const double factor = row["factor"];
  const auto weights = std::visit([](const auto& m) { return m.state_dict(); }, pipe.denoiser);
  for (const auto& [path, place] : row["layers"].items()) {
    auto down = weights.at(path + ".weight").sizes().vec();
    std::vector<int64_t> up(down.size(), 1);
    up[0] = std::exchange(down[0], 2), up[1] = 2;
    for (const auto& [suffix, shape] : {std::pair{".lora_A.weight", down}, {".lora_B.weight", up}})
      factors.set(pipe.component + "." + path + suffix, reference::weight(path + suffix, shape) * factor);
  }
  auto report = pipe.load_lora_weights(factors, {.adapter_name = "a"});
  ASSERT_EQ(report.matched_layers(), row["layers"].size()) << report.text();

  const auto size = row["mask"].get<std::vector<int64_t>>();
  auto draw = [&](std::vector<CallAdapter> adapters) {
    const auto& registry = registry_of(pipe);
    const SnapshotScope scope(registry);
    const CallAdapterOptions options{.adapters = std::move(adapters), .per_image = {}};
    const LatentImage image{pipe.component, size[0], size[1]};
    CallAdapters call(registry, AdapterRegistry::of(scope), 0, options, image);
    const RunScope run_scope(*registry.components()[0].parts, call.at(0, 1));
    return std::visit([&](const auto& m) { return run(m, {name, row["inputs"]}); }, pipe.denoiser);
  };
  auto random = ((reference::noise(name + ".mask", size) + 1) / 2).to(at::kFloat);
  auto left = at::zeros(size);
  left.slice(1, 0, row["left"].get<int64_t>()).fill_(1);

  expect_close(draw({}), expected.at(name + ".base"), 1e-5);
  expect_close(draw({{.name = "a"}}), expected.at(name + ".all"), 1e-5);
  expect_close(draw({{.name = "a", .mask = at::ones(size)}}), expected.at(name + ".all"), 1e-5);
  expect_close(draw({{.name = "a", .mask = random}}), expected.at(name + ".random"), 1e-5);
  expect_close(draw({{.name = "a", .mask = left}}), expected.at(name + ".left"), 1e-5);
  // Two masks that cover the image together are the same as no mask.
  expect_close(draw({{.name = "a", .mask = left}, {.name = "a", .mask = 1 - left}}), expected.at(name + ".all"), 1e-5);
}

INSTANTIATE_TEST_SUITE_P(Denoisers, Masks, testing::ValuesIn(names()), [](const auto& test) { return test.param; });

}  // namespace lora
