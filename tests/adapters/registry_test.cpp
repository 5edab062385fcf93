// A change happens in every component or in none, also where its own work fails.
#include "adapters/registry.h"

#include <ATen/ATen.h>

#include "kinds/lora.h"
#include "kinds/wrapped.h"
#include "nn/layers.h"
#include "support/compare.h"
#include "support/layers.h"

namespace lora {

namespace {

// Linear layers without a bias, on random weights from memory.
struct Model {
  std::shared_ptr<Parts> parts = std::make_shared<Parts>();
  std::vector<Linear> layers;

  Model(int count, int64_t out, int64_t in, Dtype dtype) {
    auto source = std::make_shared<TensorSource>();
    source->dtype = dtype;
    source->get = [](const std::string&, at::IntArrayRef shape) { return at::randn(shape); };
    Scope root(parts, source);
    for (int i = 0; i < count; ++i) layers.push_back(Linear{root / i, in, out, kNoBias});
  }

  std::vector<Tensor> weights() const {
    std::vector<Tensor> all;
    for (const auto& layer : layers) all.push_back(layer.site->weight.clone());
    return all;
  }
  bool has(const std::vector<Tensor>& wanted) const {
    for (size_t i = 0; i < layers.size(); ++i)
      if (!same_bits(layers[i].site->weight, wanted[i])) return false;
    return true;
  }
};

std::shared_ptr<const Delta> low_rank(const Site& site) {
  auto w = site.weight.sizes();
  return LoraDelta({.A = at::randn({2, w[1]}), .B = at::randn({w[0], 2}), .alpha = 2, .scale = 1})
      .to(at::kCPU, site.weight.scalar_type());
}

// Passes everything on, and has no memory for strengths above 1.5.
class FailingDelta : public WrappedDelta {
 public:
  using WrappedDelta::WrappedDelta;

  Effect effect(double strength, const Tensor& base) const override {
    if (strength > 1.5) throw std::bad_alloc();
    return inner_->effect(strength, base);
  }
  LayerTensors tensors() const override { return inner_->tensors(); }
  std::shared_ptr<const Delta> to(Device device, Dtype dtype) const override {
    return std::make_shared<FailingDelta>(inner_->to(device, dtype));
  }
};

std::shared_ptr<const Adapter> adapter(const Model& model,
                                       const std::function<std::shared_ptr<const Delta>(const Site&)>& make) {
  auto made = std::make_shared<Adapter>();
  for (const auto& layer : model.layers) made->entries.push_back({layer.site, make(*layer.site)});
  return made;
}

std::shared_ptr<const Delta> failing(const Site& site) { return std::make_shared<FailingDelta>(low_rank(site)); }

void fuse_all(AdapterRegistry& registry, const std::string& name, double scale) {
  registry.change([&](AdapterState& state) {
    for (size_t c = 0; c < state.components.size(); ++c) state.fuse({name}, c, scale);
  });
}

}  // namespace

TEST(Registry, FusesInAllComponentsOrInNone) {
  at::manual_seed(1);
  Model unet(20, 24, 16, at::kFloat), text(4, 8, 8, at::kFloat);
  AdapterRegistry registry({{"unet", unet.parts}, {"text_encoder", text.parts}});
  registry.change([&](AdapterState& state) { state.add("a", {adapter(unet, low_rank), adapter(text, failing)}); });
  auto unet_was = unet.weights(), text_was = text.weights();
  const auto before = registry.current();

  EXPECT_THROW(fuse_all(registry, "a", 2), std::bad_alloc);
  EXPECT_TRUE(unet.has(unet_was));
  EXPECT_TRUE(text.has(text_was));
  EXPECT_EQ(registry.current(), before);
  EXPECT_FALSE(registry.current()->state.fused_as("a"));

  fuse_all(registry, "a", 1);
  EXPECT_FALSE(unet.has(unet_was));
  EXPECT_FALSE(text.has(text_was));
  unet_was = unet.weights(), text_was = text.weights();
  EXPECT_THROW(fuse_all(registry, "a", 2), std::bad_alloc) << "fused again";
  EXPECT_TRUE(unet.has(unet_was));
  EXPECT_TRUE(text.has(text_was));
  EXPECT_EQ(registry.current()->state.fused_as("a")->lora_scale, 1.0);
}

TEST(Registry, SetsWeightsInAllComponentsOrInNone) {
  at::manual_seed(2);
  Model unet(2, 24, 16, at::kFloat), text(2, 8, 8, at::kFloat);
  AdapterRegistry registry({{"unet", unet.parts}, {"text_encoder", text.parts}});
  registry.change([&](AdapterState& state) { state.add("a", {adapter(unet, low_rank), adapter(text, failing)}); });
  const auto before = registry.current();
  const SiteWeights two{.number = 2, .by_site = {}};
  EXPECT_THROW(registry.change([&](AdapterState& state) { state.set({"a"}, {2.0}, {{two, two}}); }), std::bad_alloc);
  EXPECT_EQ(registry.current(), before);
  EXPECT_THROW(registry.change([](AdapterState& state) {
    state.unload();
    throw Error(ErrorKind::usage, "changed my mind");
  }),
               Error);
  EXPECT_EQ(registry.current(), before);
}

// Effects of two layers are more than is held at once, so that the first is in the weights when the second fails.
TEST(Registry, BringsBackWhatWasWrittenBeforeAFailure) {
  at::manual_seed(3);
  Model model(2, 6000, 6000, at::kBFloat16);
  AdapterRegistry registry({{"unet", model.parts}});
  auto dense = [](const Site& site) { return delta_of(site, {{"diff", at::randn({1, 6000}).expand({6000, 6000})}}); };
  auto dense_failing_last = [&](const Site& site) -> std::shared_ptr<const Delta> {
    auto delta = dense(site);
    if (site.index == 1) return std::make_shared<FailingDelta>(delta);
    return delta;
  };
  registry.change([&](AdapterState& state) {
    state.add("low", {adapter(model, low_rank)});
    state.add("bad", {adapter(model, dense_failing_last)});
  });
  const auto base = model.weights();
  auto fails = [&](const char* was) {
    SCOPED_TRACE(was);
    auto weights = model.weights();
    const auto before = registry.current();
    EXPECT_THROW(fuse_all(registry, "bad", 2), std::bad_alloc);
    EXPECT_TRUE(model.has(weights));
    EXPECT_EQ(registry.current(), before);
  };
  fails("the base");
  fuse_all(registry, "low", 1);
  fails("a low-rank adapter in the weights");
  fuse_all(registry, "bad", 1);
  fails("a whole difference in the weights");
  registry.change([](AdapterState& state) { state.unfuse({}, 0); });
  EXPECT_TRUE(model.has(base));
}

TEST(Registry, CountsChangesAndNothingElse) {
  Model model(1, 8, 8, at::kFloat);
  AdapterRegistry registry({{"unet", model.parts}});
  EXPECT_EQ(registry.current()->number, 0u);
  registry.change([&](AdapterState& state) { state.add("a", {adapter(model, low_rank)}); });
  EXPECT_EQ(registry.current()->number, 1u);
  fuse_all(registry, "a", 1);
  EXPECT_EQ(registry.current()->number, 2u);
  EXPECT_THROW(registry.change([](AdapterState& state) { state.new_name("a"); }), Error);
  EXPECT_EQ(registry.current()->number, 2u);
  registry.change([](AdapterState&) {});
  EXPECT_EQ(registry.current()->number, 3u);
}

// What did not change is not made again, however many adapters are loaded.
TEST(Registry, SharesStacksFromOneStateToTheNext) {
  Model model(1, 8, 8, at::kFloat);
  AdapterRegistry registry({{"unet", model.parts}});
  registry.change([&](AdapterState& state) { state.add("a", {adapter(model, low_rank)}); });
  registry.change([&](AdapterState& state) { state.add("b", {adapter(model, low_rank)}); });
  auto set = [&](double a, double b) {
    const SiteWeights first{.number = a, .by_site = {}}, second{.number = b, .by_site = {}};
    registry.change([&](AdapterState& state) { state.set({"a", "b"}, {a, b}, {{first}, {second}}); });
    return std::get<ForAll>(*registry.current()->runs[0]->at[0]);
  };
  auto one = set(0.5, 0.25), two = set(-1, 2);
  EXPECT_EQ(one.factors, two.factors);
  EXPECT_FALSE(at::equal(one.s, two.s));
}

TEST(Registry, AModelHasOneSourceOfRuns) {
  Model model(1, 8, 8, at::kFloat);
  {
    AdapterRegistry registry({{"unet", model.parts}});
    EXPECT_EQ(model.parts->source, &registry);
    EXPECT_NE(error_of(ErrorKind::conflict,
                       [&] {
                         AdapterRegistry({{"text_encoder", model.parts}});
                       })
                  .find("text_encoder"),
              std::string::npos);
  }
  EXPECT_EQ(model.parts->source, nullptr);
  AdapterRegistry({{"text_encoder", model.parts}});
}

}  // namespace lora
