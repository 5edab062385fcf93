// Layers of every kind as a file may have them, whole and broken.
#include <ATen/ATen.h>

#include "adapters/adapter.h"
#include "loaders/lora_config.h"
#include "nn/layers.h"
#include "support/compare.h"
#include "support/layers.h"

namespace lora {

namespace {

// A linear layer 12 → 20 and a convolution 6 → 8 of 3×3.
struct Model {
  std::shared_ptr<Parts> parts = std::make_shared<Parts>();
  Scope root{parts, source()};
  Linear linear{root / "linear", 12, 20};
  Conv2d conv{root / "conv", 6, 8, 3, 1};

  static std::shared_ptr<TensorSource> source() {
    auto source = std::make_shared<TensorSource>();
    source->get = [](const std::string&, at::IntArrayRef shape) { return at::randn(shape); };
    return source;
  }
};

struct Layer {
  const char* site;
  StateDict tensors;
};

Tensor random(std::vector<int64_t> shape) { return at::randn(shape) * 0.1; }

std::vector<Layer> layers() {
  return {
      {"linear",
       {{"lora_A.weight", random({2, 12})}, {"lora_B.weight", random({20, 2})}, {"dora_scale", random({20, 1})}}},
      {"linear",
       {{"lora_A.weight", random({2, 12})},
        {"lora_B.weight", random({20, 2})},
        {"lora_B.bias", random({20})},
        {"scale", random({1})}}},
      {"linear",
       {{"lora_A.weight", random({2, 12})},
        {"lora_B.weight", random({20, 2})},
        {"lora_magnitude_vector", random({20})}}},
      {"conv",
       {{"lora_A.weight", random({2, 6, 1, 1})},
        {"lora_B.weight", random({8, 2, 1, 1})},
        {"lora_mid.weight", random({2, 2, 3, 3})}}},
      {"linear",
       {{"hada_w1_a", random({20, 2})},
        {"hada_w1_b", random({2, 12})},
        {"hada_w2_a", random({20, 2})},
        {"hada_w2_b", random({2, 12})},
        {"dora_scale", random({1, 12})}}},
      {"conv",
       {{"hada_w1_a", random({2, 8})},
        {"hada_w1_b", random({2, 6})},
        {"hada_w2_a", random({2, 8})},
        {"hada_w2_b", random({2, 6})},
        {"hada_t1", random({2, 2, 3, 3})},
        {"hada_t2", random({2, 2, 3, 3})}}},
      {"linear",
       {{"lokr_w1_a", random({4, 1})},
        {"lokr_w1_b", random({1, 3})},
        {"lokr_w2_a", random({5, 1})},
        {"lokr_w2_b", random({1, 4})}}},
      {"conv",
       {{"lokr_w1", random({2, 3})},
        {"lokr_w2_a", random({2, 4})},
        {"lokr_w2_b", random({2, 2})},
        {"lokr_t2", random({2, 2, 3, 3})}}},
      {"linear",
       {{"lokr_w1", random({8, 3})}, {"lokr_w2", random({5, 4})}, {"lokr_rows", at::tensor({5, 25}, at::kLong)}}},
      {"linear",
       {{"a1.weight", random({12, 2})},
        {"a2.weight", random({2, 12})},
        {"b1.weight", random({20, 2})},
        {"b2.weight", random({2, 12})}}},
      {"conv",
       {{"a1.weight", random({6, 2})},
        {"a2.weight", random({2, 6})},
        {"b1.weight", random({8, 2})},
        {"b2.weight", random({2, 6, 3, 3})}}},
      {"linear", {{"weight", random({20})}, {"on_input", at::scalar_tensor(0)}}},
      {"linear", {{"ia3_l", random({1, 12})}}},
      {"linear", {{"oft_blocks", random({5, 4, 4})}, {"rescale", random({20, 1})}}},
      {"conv", {{"oft_blocks", random({2, 2, 4, 4})}}},
      {"linear", {{"oft_R.weight", random({3, 6})}, {"oft_R.scaled_oft", at::scalar_tensor(true)}}},
      {"conv", {{"diff", random({8, 6, 3, 3})}, {"diff_b", random({8})}}},
  };
}

Prepared load(const Model& model, const Layer& layer) {
  StateDict named;
  for (const auto& [suffix, tensor] : layer.tensors) named.set(std::string(layer.site) + "." + suffix, tensor);
  return prepare_tensors(*model.parts, named, PrepareOptions{.component = "unet"});
}

// What each layer's effects come to is of its weight's size and finite.
void expect_usable(const Prepared& prepared) {
  for (const auto& [site, delta] : prepared.adapter.entries) {
    auto e = delta->effect(0.5, site->weight);
    auto W = site->weight;
    if (e.A.defined()) W = W + e.scale * at::mm(e.B.flatten(1), e.A.flatten(1)).view(site->weight.sizes());
    if (e.weight.defined()) {
      EXPECT_EQ(e.weight.sizes(), W.sizes());
      W = W + e.weight;
    }
    if (e.gain.defined()) {
      EXPECT_EQ(e.gain.sizes(), at::IntArrayRef({W.size(0)}));
    }
    if (e.input_gain.defined()) {
      EXPECT_EQ(e.input_gain.sizes(), at::IntArrayRef({W.size(1)}));
    }
    if (e.bias.defined()) {
      EXPECT_EQ(e.bias.sizes(), at::IntArrayRef({W.size(0)}));
    }
    EXPECT_TRUE(at::isfinite(W).all().item<bool>());
  }
}

// The ways in which a tensor may be other than it should be; undefined where it is not there.
std::vector<Tensor> broken(const Tensor& t) {
  std::vector<Tensor> all{Tensor(), at::scalar_tensor(1.0), t.reshape(-1), t.unsqueeze(0), at::zeros({0})};
  if (t.dim() == 0) return all;
  for (int64_t dim : {int64_t(0), t.dim() - 1}) {
    all.push_back(at::cat({t, t.narrow(dim, 0, 1)}, dim));
    all.push_back(t.narrow(dim, 0, t.size(dim) - 1));
  }
  if (t.dim() > 1) all.push_back(t.transpose(0, 1));
  return all;
}

}  // namespace

TEST(MakeDelta, EveryKindIsMade) {
  at::manual_seed(1);
  Model model;
  for (const auto& layer : layers()) {
    SCOPED_TRACE(layer.tensors.begin()->first);
    auto prepared = load(model, layer);
    EXPECT_EQ(prepared.adapter.entries.size(), 1u);
    EXPECT_TRUE(prepared.unmatched.empty());
    expect_usable(prepared);
  }
}

// A broken layer is refused when it is loaded, with its name, or does something of its size: nothing is left to a run.
TEST(MakeDelta, BrokenLayersAreRefusedWhenTheyAreLoaded) {
  at::manual_seed(2);
  Model model;
  int refused = 0;
  for (const auto& layer : layers())
    for (const auto& [suffix, tensor] : layer.tensors)
      for (const auto& other : broken(tensor)) {
        Layer changed{layer.site, {}};
        for (const auto& [name, t] : layer.tensors)
          if (name != suffix || other.defined()) changed.tensors.set(name, name == suffix ? other : t);
        SCOPED_TRACE(std::string(layer.tensors.begin()->first) + ": " + suffix + " " +
                     (other.defined() ? c10::str(other.sizes()) : "missing"));
        try {
          expect_usable(load(model, changed));
        } catch (const Error& error) {
          ++refused;
          EXPECT_NE(std::string(error.what()).find(layer.site), std::string::npos) << error.what();
        }
      }
  EXPECT_GT(refused, 350);
}

// A row of zeros has no direction that a magnitude could lengthen.
TEST(MakeDelta, ARowOfZerosStaysOneUnderDora) {
  at::manual_seed(4);
  Model model;
  model.linear.site->weight[3].zero_();
  auto B = random({20, 2});
  B[3].zero_();
  for (const auto& magnitude :
       {std::pair{"lora_magnitude_vector", at::ones({20})}, {"dora_scale", at::ones({20, 1})}}) {
    Layer layer{"linear", {{"lora_A.weight", random({2, 12})}, {"lora_B.weight", B}}};
    layer.tensors.set(magnitude.first, magnitude.second);
    auto prepared = load(model, layer);
    expect_usable(prepared);
    const auto& W = model.linear.site->weight;
    auto effect = prepared.adapter.entries[0].delta->effect(1, W);
    auto changed = W * effect.gain.unsqueeze(1) + effect.scale * at::mm(effect.B, effect.A);
    EXPECT_EQ(changed[3].abs().max().item<double>(), 0);
    EXPECT_NEAR(changed[4].norm().item<double>(), 1, 1e-4);
  }
}

TEST(MakeDelta, ALayerIsOfOneKind) {
  Model model;
  Layer both{"linear",
             {{"lora_A.weight", random({2, 12})},
              {"lora_B.weight", random({20, 2})},
              {"lokr_w1", random({4, 3})},
              {"lokr_w2", random({5, 4})}}};
  EXPECT_NE(error_of(ErrorKind::unsupported, [&] { load(model, both); }).find("lora_A.weight and lokr_w1"),
            std::string::npos);
  Layer turned{"linear", {{"diff", random({12, 20})}}};
  error_of(ErrorKind::bad_shape, [&] { load(model, turned); });
}

// A convolution's factors do not tell their side by their shape, so that what is saved has another.
TEST(MakeDelta, Ia3KeepsItsSideWithoutItsConfig) {
  at::manual_seed(3);
  Model model;
  Conv2d square{model.root / "square", 6, 6, 3, 1};
  Layer layer{"square", {{"ia3_l", random({1, 6, 1, 1})}}};
  for (bool feedforward : {false, true}) {
    LoraConfig config{.peft_type = "IA3"};
    if (feedforward) config.feedforward_pattern = "squ.*";
    auto named = layers_named(StateDict{{"unet.square.ia3_l", layer.tensors.at("ia3_l")}});
    config.apply(named[0]);
    auto first = prepare(*model.parts, pointers_to(named), {.component = "unet"});
    Layer saved{"square", {}};
    for (const auto& [suffix, tensor] : first.adapter.entries[0].delta->tensors()) saved.tensors.set(suffix, tensor);
    auto again = load(model, saved);
    auto a = first.adapter.entries[0].delta->effect(1, square.site->weight);
    auto b = again.adapter.entries[0].delta->effect(1, square.site->weight);
    EXPECT_EQ(a.input_gain.defined(), feedforward);
    EXPECT_TRUE(at::equal(feedforward ? a.input_gain : a.gain, feedforward ? b.input_gain : b.gain));
  }
}

// Of a convolution in groups each output has the inputs of its group: factors of that size make its weight.
TEST(MakeDelta, ConvolutionsInGroupsTakeFactorsOfTheirOwnSize) {
  at::manual_seed(4);
  for (int64_t group : {1, 2}) {  // inputs of an output: 1 for a depthwise convolution
    Site site{.path = "depthwise", .kind = SiteKind::conv2d, .weight = at::randn({8, group, 3, 3})};
    site.geometry.groups = 8 / group;
    auto A = at::randn({2, group, 3, 3}), B = at::randn({8, 2, 1, 1});
    auto wanted = at::mm(B.flatten(1).to(at::kDouble), A.flatten(1).to(at::kDouble)).view_as(site.weight) * 0.25;
    for (const auto& down : {A, A.flatten(1)})
      for (const auto& up : {B, B.flatten(1)}) {
        auto delta = delta_of(site, {{"lora_A.weight", down}, {"lora_B.weight", up}}, Strength{0.5, 0.25});
        auto weight = with_effect(delta->effect(1, site.weight), site.kind, site.weight);
        expect_close((weight - site.weight).to(at::kDouble), wanted, 1e-5);
      }
    // Factors that join the groups make no weight of this shape.
    error_of(ErrorKind::unsupported, [&] {
      delta_of(site, {{"lora_A.weight", at::randn({2, 8, 3, 3})}, {"lora_B.weight", B}});
    });
  }
}

}  // namespace lora
