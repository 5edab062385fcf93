#include "nn/applied.h"
#include "nn/layers.h"
#include "nn/run.h"
#include "support/compare.h"

namespace lora {

namespace {

// A model of one layer of each kind, on random weights.
struct Layers {
  std::shared_ptr<Parts> parts = std::make_shared<Parts>();
  Scope root{parts, source()};
  Linear linear{root / "linear", 12, 20};
  Conv2d conv{root / "conv", 6, 8, 3, 2};
  Embedding embedding{root / "embedding", 30, 10};
  LayerNorm norm{root / "norm", 20};

  static std::shared_ptr<TensorSource> source() {
    auto source = std::make_shared<TensorSource>();
    source->get = [](const std::string&, at::IntArrayRef shape) { return at::randn(shape); };
    return source;
  }

  std::shared_ptr<const Run> run(const Site* site, Applied applied) {
    auto run = std::make_shared<Run>();
    run->at.resize(parts->sites.size());
    run->at[site->index] = std::make_shared<Applied>(std::move(applied));
    return run;
  }
};

std::shared_ptr<const FactorStack> stack(const Tensor& A, const Tensor& B) {
  return std::make_shared<FactorStack>(FactorStack{.A = A, .B = B, .As = {}, .Bs = {}});
}

// Gives a model the runs that a test sets.
struct Source : RunSource {
  std::shared_ptr<const Runs> now = std::make_shared<Runs>();

  explicit Source(Parts& parts) { parts.source = this; }
  std::shared_ptr<const Runs> snapshot() const override { return now; }
  void publish(std::shared_ptr<const lora::Run> run) {
    auto runs = std::make_shared<Runs>();
    runs->number = now->number + 1;
    runs->runs = {std::move(run)};
    now = std::move(runs);
  }
};

Tensor flat_product(const Tensor& B, const Tensor& A, const Tensor& W) {
  return at::mm(B.flatten(1), A.flatten(1)).view(W.sizes());
}

}  // namespace

TEST(Site, IsListedUnderItsPath) {
  Layers m;
  ASSERT_EQ(m.parts->sites.size(), 4u);
  EXPECT_EQ(m.parts->by_path.at("conv"), m.conv.site);
  EXPECT_EQ(m.parts->sites[1]->index, 1u);
  EXPECT_EQ(m.conv.site->geometry.stride, (std::vector<int64_t>{2, 2}));
  EXPECT_FALSE(m.embedding.site->bias.defined());
}

TEST(Site, LinearStackEqualsDenseSum) {
  at::manual_seed(1);
  Layers m;
  auto A = at::randn({5, 12}), B = at::randn({20, 5});
  auto s = at::tensor({0.5f, 0.5f, -2.f, -2.f, -2.f});
  auto x = at::randn({2, 7, 12});
  auto wanted = at::linear(x, m.linear.site->weight + 3 * at::mm(B * s, A), m.linear.site->bias);
  RunScope scope(*m.parts, m.run(m.linear.site, ForAll{.factors = stack(A, B), .s = s, .scale = 3}));
  expect_close(m.linear(x), wanted, 1e-6);
}

TEST(Site, ConvolutionWalksAsTheBaseDoes) {
  at::manual_seed(2);
  Layers m;
  auto A = at::randn({4, 6, 3, 3}), B = at::randn({8, 4, 1, 1});
  auto x = at::randn({2, 6, 9, 11});
  auto wanted =
      at::conv2d(x, m.conv.site->weight + 0.7 * flat_product(B, A, m.conv.site->weight), m.conv.site->bias, 2, 1);
  RunScope scope(*m.parts, m.run(m.conv.site, ForAll{.factors = stack(A, B), .scale = 0.7}));
  expect_close(m.conv(x), wanted, 1e-5);
}

TEST(Site, EmbeddingStackEqualsDenseSum) {
  at::manual_seed(3);
  Layers m;
  auto A = at::randn({3, 30}), B = at::randn({10, 3});
  auto ids = at::randint(30, {2, 5}, at::kLong);
  auto wanted = at::embedding(m.embedding.site->weight + 2 * at::mm(B, A).t(), ids);
  RunScope scope(*m.parts, m.run(m.embedding.site, ForAll{.factors = stack(A, B), .scale = 2}));
  expect_close(m.embedding(ids), wanted, 1e-6);
}

TEST(Site, ReplacementWeightsStandIn) {
  Layers m;
  auto x = at::randn({3, 20});
  auto weight = at::randn({20}), bias = at::randn({20});
  RunScope scope(*m.parts, m.run(m.norm.site, ForAll{.weight = weight, .bias = bias}));
  EXPECT_TRUE(at::equal(m.norm(x), at::layer_norm(x, {20}, weight, bias)));
}

TEST(RunScope, KeepsWhatItBeganWith) {
  Layers m;
  Source source(*m.parts);
  source.publish(nullptr);
  auto x = at::randn({3, 12});
  auto base = m.linear(x);
  source.publish(m.run(m.linear.site, ForAll{.weight = at::zeros({20, 12})}));
  EXPECT_TRUE(at::equal(m.linear(x), base)) << "outside a run nothing applies";
  Tensor during;
  {
    RunScope scope(*m.parts);
    during = m.linear(x);
    EXPECT_FALSE(at::equal(during, base));
    source.publish(nullptr);
    EXPECT_TRUE(at::equal(m.linear(x), during));
    RunScope inner(*m.parts);
    EXPECT_TRUE(at::equal(m.linear(x), during)) << "a call inside a run belongs to it";
  }
  RunScope scope(*m.parts);
  EXPECT_TRUE(at::equal(m.linear(x), base));
}

TEST(RunScope, RefusesARunWithAProblem) {
  Layers m;
  Source source(*m.parts);
  auto run = std::make_shared<lora::Run>();
  run->problem = "adapter \"a\" is elsewhere";
  source.publish(run);
  EXPECT_EQ(error_of(ErrorKind::conflict, [&] { RunScope scope(*m.parts); }), "adapter \"a\" is elsewhere");
  EXPECT_FALSE(SnapshotScope::inside(source));
  source.gate().close();  // which would wait for a run that had not left
  source.gate().open();
}

}  // namespace lora
