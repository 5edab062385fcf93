#include <random>

#include "adapters/registry.h"
#include "kinds/dora.h"
#include "kinds/lora.h"
#include "nn/layers.h"
#include "support/compare.h"
#include "support/layers.h"

namespace lora {

namespace {

// Three layers whose weights alias a mapped file, came converted from one, or came from no file at all.
enum class Origin { mapped, converted, memory };

struct Named {
  std::string name;
  Adapter adapter;
};

struct Model {
  TemporaryFolder folder;
  std::shared_ptr<Parts> parts = std::make_shared<Parts>();
  std::vector<Linear> linears;
  std::vector<Conv2d> convs;

  Model(Origin origin, Dtype dtype) {
    at::manual_seed(7);
    StateDict weights;
    auto stored = origin == Origin::converted ? (dtype == at::kHalf ? at::kFloat : at::kHalf) : dtype;
    for (auto name : {"a", "b"}) weights.set(std::string(name) + ".weight", at::randn({300, 700}).to(stored));
    weights.set("c.weight", at::randn({33, 17, 3, 3}).to(stored));
    if (origin != Origin::memory) {
      save_safetensors(weights, folder / "w.safetensors");
      weights = load_state_dict(folder / "w.safetensors");
    }
    auto source = std::make_shared<TensorSource>();
    source->dtype = dtype;
    source->get = [weights](const std::string& name, at::IntArrayRef) { return weights.at(name); };
    Scope root(parts, source);
    linears.push_back(Linear{root / "a", 700, 300, kNoBias});
    linears.push_back(Linear{root / "b", 700, 300, kNoBias});
    convs.push_back(Conv2d{.s = root / "c", .in = 17, .out = 33, .bias = false});
  }

  std::vector<Tensor> weights() const {
    std::vector<Tensor> all;
    for (const auto& site : parts->sites) all.push_back(site->weight.clone());
    return all;
  }

  Named adapter(const std::string& name, int64_t rank, uint64_t seed, double alpha) {
    at::manual_seed(seed);
    Adapter a;
    for (const auto& site : parts->sites) {
      auto w = site->weight.sizes();
      auto A = w.size() == 4 ? at::randn({rank, w[1], w[2], w[3]}) : at::randn({rank, w[1]});
      auto B = w.size() == 4 ? at::randn({w[0], rank, 1, 1}) : at::randn({w[0], rank});
      auto dtype = site->weight.scalar_type();
      a.entries.push_back(
          {site.get(), std::make_shared<LoraDelta>(LoraFactors{
                           .A = A.to(dtype), .B = B.to(dtype), .alpha = alpha, .scale = alpha / double(rank)})});
    }
    return {name, std::move(a)};
  }
};

// The loaders' calls on a pipeline of that one component.
struct Calls {
  AdapterRegistry registry;

  explicit Calls(const std::shared_ptr<Parts>& parts) : registry({{"model", parts}}) {}

  AdapterState state() const { return registry.current()->state; }
  std::vector<std::string> names() const { return state().names(0); }
  std::vector<std::string> fused() const {
    std::vector<std::string> names;
    const auto now = state();
    for (const auto& f : now.components[0].fused) names.push_back(f.name);
    return names;
  }
  std::shared_ptr<const Adapter> adapter(const std::string& name) const { return state().part(name, 0); }

  void edit(const std::function<void(AdapterState&)>& change) { registry.change(change); }
  void add(const Named& a) {
    edit([&](AdapterState& s) { s.add(s.new_name(a.name), {std::make_shared<Adapter>(a.adapter)}); });
  }
  void replace(const Named& a) {
    edit([&](AdapterState& s) { s.replace(a.name, {std::make_shared<Adapter>(a.adapter)}, {{}}); });
  }
  void set(const std::vector<std::string>& names, const std::vector<double>& weights) {
    std::vector<std::vector<SiteWeights>> each;
    for (auto w : weights) each.push_back({{.number = w, .by_site = {}}});
    edit([&](AdapterState& s) { s.set(names, std::vector<LoraScale>(weights.begin(), weights.end()), each); });
  }
  void enable(bool on) {
    edit([&](AdapterState& s) { s.enabled = on; });
  }
  void fuse(const std::vector<std::string>& names, double scale) {
    edit([&](AdapterState& s) { s.fuse(names, 0, scale); });
  }
  void unfuse(const std::vector<std::string>& names = {}) {
    edit([&](AdapterState& s) { s.unfuse(names, 0); });
  }
  void remove(const std::vector<std::string>& names) {
    edit([&](AdapterState& s) { s.remove(names); });
  }
  void unload() {
    edit([](AdapterState& s) { s.unload(); });
  }
};

// The same layers with another kind of delta on each, by turns.
Named of_kinds(Named named, const Calls& calls, int turn) {
  auto& adapter = named.adapter;
  for (size_t i = 0; i < adapter.entries.size(); ++i) {
    auto& [site, delta] = adapter.entries[i];
    auto effect = delta->effect(1, site->weight);
    LoraFactors factors{.A = effect.A, .B = effect.B, .alpha = delta->alpha(), .scale = delta->scale()};
    auto base = calls.registry.base(*site);
    auto magnitude = at::rand({base.size(0)}) + 20;
    auto out = base.size(0), in = base.numel() / out;
    switch ((turn + int(i)) % 8) {
      case 0: break;
      case 1: delta = std::make_shared<PeftDoraDelta>(factors, magnitude, base, site->path); break;
      case 2: {
        auto by_input = at::rand({1, base.size(1)}) + 15;
        delta = std::make_shared<LycorisDoraDelta>(delta, i % 2 ? by_input : magnitude.view({-1, 1}), base, site->path);
        break;
      }
      case 3: delta = delta_of(*site, {{"diff", at::randn(base.sizes())}}); break;
      case 4:
        delta = delta_of(*site,
                         {{"hada_w1_a", at::randn({out, 2})},
                          {"hada_w1_b", at::randn({2, in})},
                          {"hada_w2_a", at::randn({out, 2})},
                          {"hada_w2_b", at::randn({2, in})}},
                         {{2, 1}});
        break;
      case 5:
        delta = delta_of(*site, {{"lokr_w1", at::randn({1, 1})}, {"lokr_w2", at::randn(base.sizes())}}, {{1, 1}});
        break;
      case 6: delta = delta_of(*site, {{"weight", at::randn({out})}, {"on_input", at::scalar_tensor(0)}}); break;
      case 7: delta = delta_of(*site, {{"oft_blocks", at::randn({1, out, out})}}, {{1e-3, 1}}); break;
    }
  }
  return named;
}

bool same(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), same_bits);
}

Tensor dense(const Delta& delta, const Tensor& W) {
  auto f = delta.effect(1, W);
  return (f.scale * at::mm(f.B.to(at::kDouble).flatten(1), f.A.to(at::kDouble).flatten(1))).view(W.sizes());
}

}  // namespace

class AdaptersTest : public testing::TestWithParam<std::tuple<Origin, Dtype>> {};

TEST_P(AdaptersTest, FusingRoundsOnceAndUnfusingRestoresEveryBit) {
  auto [origin, dtype] = GetParam();
  Model model(origin, dtype);
  auto base = model.weights();
  Calls adapters(model.parts);
  adapters.add(model.adapter("x", 4, 1, 2));
  adapters.add(model.adapter("y", 8, 2, 8));
  adapters.set({"x", "y"}, {0.5, -1.25});
  adapters.fuse({"x", "y"}, 0.8);

  for (size_t i = 0; i < base.size(); ++i) {
    auto W = base[i].to(at::kDouble) + 0.8 * 0.5 * dense(*adapters.adapter("x")->entries[i].delta, base[i]) -
             0.8 * 1.25 * dense(*adapters.adapter("y")->entries[i].delta, base[i]);
    // One rounding: half a unit in the last place of the largest values, and the sum's own in float32.
    double tolerance = dtype == at::kFloat ? 1e-6 : dtype == at::kHalf ? std::exp2(-11) : std::exp2(-8);
    expect_close(model.parts->sites[i]->weight, W, tolerance);
  }
  EXPECT_EQ(adapters.fused(), (std::vector<std::string>{"x", "y"}));
  adapters.unfuse();
  EXPECT_TRUE(same(model.weights(), base));
  EXPECT_TRUE(adapters.fused().empty());
}

TEST_P(AdaptersTest, FusedEqualsActive) {
  auto [origin, dtype] = GetParam();
  Model model(origin, dtype);
  Calls adapters(model.parts);
  adapters.add(model.adapter("x", 4, 1, 2));
  adapters.set({"x"}, {0.6});
  auto x = at::randn({5, 700}).to(dtype);
  auto run = [&] {
    RunScope scope(*model.parts);
    return model.linears[0](x);
  };
  auto active = run();
  adapters.fuse({"x"}, 1.0);
  expect_close(run(), active, dtype == at::kFloat ? 1e-5 : 0.05);
  adapters.enable(false);
  auto off = run();
  adapters.enable(true);
  adapters.unfuse();
  EXPECT_TRUE(at::equal(run(), active));
  adapters.set({}, {});
  EXPECT_TRUE(at::equal(run(), off)) << "disabled while fused is the base";
}

// Whatever is done in whatever order, undoing gives the file's bits.
TEST_P(AdaptersTest, AnySequenceOfCallsCanBeUndone) {
  auto [origin, dtype] = GetParam();
  for (uint64_t seed = 0; seed < 3; ++seed) {
    Model model(origin, dtype);
    auto base = model.weights();
    Calls adapters(model.parts);
    std::mt19937_64 random(seed);
    auto pick = [&](int n) { return int(random() % uint64_t(n)); };
    int loaded = 0;
    for (int call = 0; call < 200; ++call) {
      auto names = adapters.names();
      std::vector<std::string> some;
      for (const auto& name : names)
        if (pick(2)) some.push_back(name);
      std::vector<double> weights;
      for (size_t i = 0; i < some.size(); ++i) weights.push_back(double(pick(5) - 2));
      switch (pick(10)) {
        case 0:
          if (names.size() < 4)
            adapters.add(of_kinds(model.adapter("n" + std::to_string(loaded++), 1 + pick(4), random(), 1 + pick(4)),
                                  adapters, pick(8)));
          break;
        case 1: adapters.set(some, weights); break;
        case 2: adapters.enable(pick(2)); break;
        case 9:
          if (!some.empty()) adapters.replace(model.adapter(some.back(), 1 + pick(4), random(), 1 + pick(4)));
          break;
        case 3:
        case 4: adapters.fuse(some, 0.25 * (1 + pick(4))); break;
        case 5: adapters.unfuse(some); break;
        case 6: adapters.remove(some.empty() ? some : std::vector{some.front()}); break;
        case 7:
          if (pick(6) == 0) adapters.unload();
          break;
        case 8: adapters.unfuse(); break;
      }
    }
    adapters.enable(false);
    EXPECT_TRUE(same(model.weights(), base)) << "disabled, seed " << seed;
    adapters.enable(true);
    adapters.unfuse();
    EXPECT_TRUE(same(model.weights(), base)) << "unfused, seed " << seed;
  }
}

std::string case_name(const testing::TestParamInfo<std::tuple<Origin, Dtype>>& test) {
  constexpr const char* kOrigins[] = {"mapped", "converted", "memory"};
  return std::string(kOrigins[int(std::get<0>(test.param))]) + "_" + to_string(std::get<1>(test.param));
}

INSTANTIATE_TEST_SUITE_P(Weights, AdaptersTest,
                         testing::Combine(testing::Values(Origin::mapped, Origin::converted, Origin::memory),
                                          testing::Values(at::kFloat, at::kHalf, at::kBFloat16)),
                         case_name);

TEST(Adapters, FusingAgainReplaces) {
  Model model(Origin::mapped, at::kFloat);
  Calls adapters(model.parts);
  adapters.add(model.adapter("x", 4, 1, 2));
  adapters.fuse({"x"}, 0.5);
  auto once = model.weights();
  adapters.fuse({"x"}, 1.0);
  EXPECT_FALSE(same(model.weights(), once));
  adapters.fuse({"x"}, 0.5);
  EXPECT_TRUE(same(model.weights(), once));
}

TEST(Adapters, UnloadKeepsWhatIsFusedAndUnfuseStillFindsIt) {
  Model model(Origin::mapped, at::kBFloat16);
  auto base = model.weights();
  Calls adapters(model.parts);
  adapters.add(model.adapter("x", 4, 1, 2));
  adapters.fuse({"x"}, 1.0);
  auto fused = model.weights();
  adapters.unload();
  EXPECT_TRUE(adapters.names().empty());
  EXPECT_EQ(adapters.fused(), std::vector<std::string>{"x"});
  EXPECT_TRUE(same(model.weights(), fused));
  adapters.add(model.adapter("x", 2, 9, 2));  // the name is free again; the baked one is another adapter
  adapters.fuse({"x"}, 1.0);
  EXPECT_FALSE(same(model.weights(), fused));
  adapters.remove({"x"});
  EXPECT_EQ(adapters.fused(), std::vector<std::string>{"x"});
  EXPECT_TRUE(same(model.weights(), fused));
  adapters.unfuse();
  EXPECT_TRUE(adapters.fused().empty());
  EXPECT_TRUE(same(model.weights(), base));
}

// Whatever is active and whatever is fused, a layer does the same: each change is one of the base.
TEST(Adapters, EveryKindDoesTheSameFusedAndActiveBesideOthers) {
  for (int turn = 0; turn < 8; ++turn) {
    SCOPED_TRACE(turn);
    Model model(Origin::mapped, at::kFloat);
    Calls adapters(model.parts);
    adapters.add(of_kinds(model.adapter("x", 4, 1, 2), adapters, turn));
    adapters.add(of_kinds(model.adapter("y", 3, 2, 3), adapters, turn + 1));
    adapters.set({"x", "y"}, {0.6, -0.4});
    auto x = at::randn({5, 700}), image = at::randn({2, 17, 9, 9});
    auto run = [&] {
      RunScope scope(*model.parts);
      return std::vector{model.linears[0](x), model.linears[1](x), model.convs[0](image)};
    };
    auto active = run();
    for (const auto& some : {std::vector<std::string>{"x"}, {"y"}, {"x", "y"}}) {
      adapters.fuse(some, 1);
      auto fused = run();
      for (size_t i = 0; i < active.size(); ++i) expect_close(fused[i], active[i], 1e-5);
      adapters.unfuse();
    }
  }
}

TEST(Adapters, NonFiniteResultsAreFoundBeforeAnythingIsWritten) {
  Model model(Origin::mapped, at::kFloat);
  auto base = model.weights();
  Calls adapters(model.parts);
  auto bad = model.adapter("bad", 2, 1, 2);
  bad.adapter.entries[2].delta->effect(1, {}).B[0][0][0][0] = std::numeric_limits<float>::infinity();
  adapters.add(bad);
  auto fuse = [](AdapterState& state) { state.fuse({"bad"}, 0, 1.0); };
  auto refused =
      error_of(ErrorKind::unsupported, [&] { adapters.registry.change(fuse, AdapterRegistry::Results::finite); });
  EXPECT_NE(refused.find("1 layer: model.c;"), std::string::npos) << refused;
  EXPECT_TRUE(adapters.fused().empty());
  EXPECT_TRUE(same(model.weights(), base));
}

TEST(Adapters, WeightsAreNotWrittenUnderARun) {
  Model model(Origin::memory, at::kFloat);
  Calls adapters(model.parts);
  adapters.add(model.adapter("x", 2, 1, 2));
  RunScope scope(*model.parts);
  EXPECT_NE(error_of(ErrorKind::conflict, [&] { adapters.fuse({"x"}, 1.0); }).find("inside a run"), std::string::npos);
  EXPECT_TRUE(adapters.fused().empty());
}

TEST(Prepare, SaysWhatIsMissingAndWhatIsStrange) {
  Model model(Origin::memory, at::kFloat);
  StateDict half{{"a.lora_A.weight", at::randn({2, 700})}};
  EXPECT_NE(
      error_of(ErrorKind::bad_key, [&] { prepare_tensors(*model.parts, half, PrepareOptions{.component = "unet"}); })
          .find("one half of a pair"),
      std::string::npos);

  StateDict wrong{{"a.lora_A.weight", at::randn({2, 701})}, {"a.lora_B.weight", at::randn({300, 2})}};
  EXPECT_NE(
      error_of(ErrorKind::bad_shape, [&] { prepare_tensors(*model.parts, wrong, PrepareOptions{.component = "unet"}); })
          .find("701 → 300"),
      std::string::npos);

  StateDict strange{{"a.lora_A.weight", at::randn({2, 700})},
                    {"a.lora_B.weight", at::randn({300, 2})},
                    {"q.lora_A.weight", at::randn({2, 700})},
                    {"q.lora_B.weight", at::randn({300, 2})},
                    {"a.alpha", at::scalar_tensor(1.0)}};
  auto prepared = prepare_tensors(*model.parts, strange, PrepareOptions{.component = "unet"});
  ASSERT_EQ(prepared.report.layers.size(), 1u);
  EXPECT_EQ(prepared.report.layers[0].scale, 0.5);
  ASSERT_EQ(prepared.unmatched.size(), 1u);
  EXPECT_EQ(prepared.unmatched[0].key, "unet.q");
}

TEST(Prepare, MatricesFitOneByOneConvolutionsAndTheReverse) {
  Model model(Origin::memory, at::kFloat);
  StateDict flat{{"c.lora_A.weight", at::randn({2, 17 * 9})},
                 {"c.lora_B.weight", at::randn({33, 2})},
                 {"a.lora_A.weight", at::randn({2, 700, 1, 1})},
                 {"a.lora_B.weight", at::randn({300, 2, 1, 1})}};
  auto prepared = prepare_tensors(*model.parts, flat, PrepareOptions{.component = "unet"});
  EXPECT_EQ(prepared.adapter.entries[0].delta->effect(1, {}).A.dim(), 2);
  EXPECT_EQ(prepared.adapter.entries[1].delta->effect(1, {}).A.sizes(), (std::vector<int64_t>{2, 17, 3, 3}));
}

}  // namespace lora
