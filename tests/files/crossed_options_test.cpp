// All options of a conversion crossed, for every kind of layer: what is written changes a random weight as the source
// does, or the call is refused with the reason.
#include <gmock/gmock.h>

#include "kinds/kinds.h"
#include "lora/files.h"
#include "nn/effect.h"
#include "support/compare.h"
#include "support/folder.h"
#include "support/random_layers.h"

namespace lora {

namespace {

using testing::HasSubstr;

const std::vector<Weight> kWeights = {
    {"down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k", 8, 12, {}},
    {"up_blocks.1.resnets.0.conv1", 8, 6 * 9, {3, 3}},
};

// What a layer makes of its weight and bias, at strength 1, in float64.
std::pair<Tensor, Tensor> changed(const LoraLayer& layer, const Weight& w) {
  at::manual_seed(9);
  Site site{.path = w.path, .kind = w.kernel.empty() ? SiteKind::linear : SiteKind::conv2d};
  site.weight = at::randn(with_kernel({w.rows, w.inputs()}, w.kernel), at::kDouble);
  site.bias = at::randn({w.rows}, at::kDouble);
  MakeOptions options{.base = [](const Site& s) { return s.weight; },
                      .base_bias = [](const Site& s) { return s.bias; },
                      .label = layer.name()};
  auto effect = make_delta(layer, site, options)->effect(1, site.weight);
  auto bias = effect.bias.defined() ? effect.bias.to(at::kDouble) : at::zeros({w.rows}, at::kDouble);
  return {with_effects(sum_of({effect}, site.kind, site.weight), site.weight, site.weight) - site.weight, bias};
}

double apart(const Tensor& got, const Tensor& wanted) {
  auto size = wanted.norm().item<double>();
  auto difference = (got - wanted).norm().item<double>();
  return size > 0 ? difference / size : difference;
}

const LoraLayer& layer_at(const LoraFile& file, const std::string& path) {
  auto found = std::find_if(file.layers.begin(), file.layers.end(), [&](auto& layer) { return layer.path == path; });
  if (found == file.layers.end()) throw std::runtime_error("no layer " + path);
  return *found;
}

struct Options {
  std::string to;
  std::optional<Dtype> dtype;
  bool approximate;
};

std::vector<Options> all_options() {
  std::vector<Options> all;
  for (const auto* to : {"kohya", "comfy", "diffusers", "peft"})
    for (std::optional<Dtype> dtype : {std::optional<Dtype>(), {at::kFloat}, {at::kHalf}, {at::kBFloat16}})
      for (bool approximate : {false, true}) all.push_back({to, dtype, approximate});
  return all;
}

// What a refusal must say; "" for options that go together.
std::string reason(const Options& options, const std::vector<LoraLayer>& layers) {
  bool dotted = options.to == "diffusers" || options.to == "peft";
  if (!dotted) return options.approximate ? "leave out the approximation" : "";
  auto any = [&](Factors factors) {
    return std::any_of(layers.begin(), layers.end(), [&](auto& l) { return factors_of(l.tensors) == factors; });
  };
  if (any(Factors::with_base_only)) return "without the base model";
  return any(Factors::nearly) && !options.approximate ? "--approximate --rank N" : "";
}

}  // namespace

class Crossed : public testing::TestWithParam<size_t> {};

TEST_P(Crossed, OptionsKeepTheChangeOrAreRefused) {
  at::manual_seed(4);
  const auto& kind = kind_cases()[GetParam()];
  LoraFile source{.base_model = BaseModel::sd1, .source = "made"};
  for (const auto& weight : kWeights) source.layers.push_back(layer_for(kind, "unet", weight));
  TemporaryFolder folder(TemporaryFolder::in_memory());
  for (const auto& options : all_options()) {
    auto dtype = options.dtype ? std::string(to_string(*options.dtype)) : "none";
    SCOPED_TRACE(fmt::format("--to {} --dtype {} {}", options.to, dtype, options.approximate ? "--approximate" : ""));
    auto out = folder / (options.to == "peft" ? "peft" : "out.safetensors");
    std::filesystem::remove_all(out);
    ConvertOptions given{.to = options.to, .dtype = options.dtype};
    if (options.approximate) given.approximate = 6;
    auto why = reason(options, source.layers);
    Conversion done;
    try {
      done = convert_lora(source, out, given);
    } catch (const Error& error) {
      EXPECT_NE(why, "") << error.what();
      EXPECT_THAT(error.what(), HasSubstr(why));
      EXPECT_FALSE(std::filesystem::exists(out));
      continue;
    }
    EXPECT_EQ(why, "");
    auto read = read_lora(out);
    ASSERT_EQ(read.layers.size(), kWeights.size());
    double tolerance = options.dtype == at::kBFloat16 ? 2e-2 : options.dtype == at::kHalf ? 3e-3 : 2e-6;
    for (size_t i = 0; i < kWeights.size(); ++i) {
      const auto& layer = layer_at(read, kWeights[i].path);
      auto [weight, bias] = changed(layer, kWeights[i]);
      auto [wanted_weight, wanted_bias] = changed(source.layers[i], kWeights[i]);
      EXPECT_LE(apart(weight, wanted_weight), tolerance + 1.001 * done.largest_error) << kWeights[i].path;
      EXPECT_LE(apart(bias, wanted_bias), tolerance) << kWeights[i].path;
      for (const auto& [suffix, tensor] : layer.tensors)
        EXPECT_TRUE(!options.dtype || !tensor.is_floating_point() || tensor.scalar_type() == *options.dtype) << suffix;
    }
    bool nothing_to_do = options.approximate && done.approximated == 0;
    EXPECT_EQ(nothing_to_do, done.text().find("no layer had to be approximated") != std::string::npos);
    // Again, over itself: the same file.
    ConvertOptions again{.to = options.to, .dtype = options.dtype};
    convert_lora(out, out, again);
    auto now = read_lora(out);
    for (const auto& w : kWeights) {
      auto [weight, bias] = changed(layer_at(now, w.path), w);
      auto [weight_before, bias_before] = changed(layer_at(read, w.path), w);
      EXPECT_EQ(apart(weight, weight_before), 0) << w.path;
      EXPECT_EQ(apart(bias, bias_before), 0) << w.path;
    }
  }
}

// ---- Embeddings -----------------------------------------------------------------------------------------------------
//
// Their factors have names of their own in PEFT, and another order in kohya's family.

struct EmbeddingNames {
  const char *name, *layer, *down, *up;
  bool kohyas_order;
};

class Embeddings : public testing::TestWithParam<EmbeddingNames> {};

TEST_P(Embeddings, EveryTargetKeepsTheChange) {
  const auto& names = GetParam();
  const bool flat = std::string_view(names.layer).ends_with('_');
  constexpr int64_t kWidth = 5, kRank = 2;
  TemporaryFolder folder(TemporaryFolder::in_memory());
  at::manual_seed(6);
  // As many words as numbers in a word: then the sizes do not tell the order.
  for (int64_t words : {int64_t(9), kWidth}) {
    auto up = at::randn({words, kRank}), down = at::randn({kRank, kWidth});
    auto layer = names.layer + std::string(flat ? "embeddings_token_embedding" : "embeddings.token_embedding");
    StateDict source;
    source.set(layer + names.down, names.kohyas_order ? down : up.t().contiguous());
    source.set(layer + names.up, names.kohyas_order ? up : down.t().contiguous());
    source.set(layer + ".alpha", at::scalar_tensor(1.0));
    source.metadata["ss_base_model_version"] = "sd_v1";
    auto weight = at::randn({words, kWidth}), wanted = at::mm(up, down) / double(kRank);
    Site site{.path = "text_model.embeddings.token_embedding", .kind = SiteKind::embedding, .weight = weight};
    auto change = [&](const LoraFile& file) {
      const auto& read = layer_at(file, site.path);
      EXPECT_EQ(read.component, "text_encoder");
      auto delta = make_delta(read, site, {.base = [](const Site& s) { return s.weight; }, .label = read.name()});
      return with_effect(delta->effect(1, weight), site.kind, weight) - weight;
    };
    expect_close(change(read_lora(source)), wanted, 1e-5);
    auto converted = [&](const LoraSource& from, const std::string& name, const std::string& to) {
      auto out = folder / fmt::format("{}-{}{}", words, name, to == "peft" ? "" : ".safetensors");
      convert_lora(from, out, {.to = to});
      expect_close(change(read_lora(out)), wanted, 1e-5);
      return out;
    };
    for (std::string to : {"kohya", "comfy", "diffusers", "peft"}) {
      SCOPED_TRACE(fmt::format("{} words, --to {}", words, to));
      auto out = converted(source, to, to);
      for (std::string again : {"kohya", "peft"}) converted(out, to + "-" + again, again);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, Embeddings,
    testing::Values(
        EmbeddingNames{"peft", "base_model.model.text_model.", ".lora_embedding_A", ".lora_embedding_B", false},
        EmbeddingNames{"peft_without_text_model", "base_model.model.", ".lora_embedding_A", ".lora_embedding_B", false},
        EmbeddingNames{"diffusers", "text_encoder.text_model.", ".lora_A.weight", ".lora_B.weight", false},
        EmbeddingNames{"diffusers_2023", "text_encoder.text_model.", ".lora_linear_layer.down.weight",
                       ".lora_linear_layer.up.weight", true},
        EmbeddingNames{"diffusers_of_kohya", "text_encoder.text_model.", ".lora_down.weight", ".lora_up.weight", true},
        EmbeddingNames{"comfy", "text_encoders.clip_l.transformer.text_model.", ".lora_down.weight", ".lora_up.weight",
                       true},
        EmbeddingNames{"comfy_of_peft", "text_encoders.clip_l.transformer.text_model.", ".lora_A.weight",
                       ".lora_B.weight", false},
        EmbeddingNames{"kohya", "lora_te_text_model_", ".lora_down.weight", ".lora_up.weight", true},
        EmbeddingNames{"kohya_2023", "lora_te_text_model_", ".lora.down.weight", ".lora.up.weight", true}),
    [](const auto& test) { return std::string(test.param.name); });

INSTANTIATE_TEST_SUITE_P(All, Crossed, testing::Range(size_t(0), kind_cases().size()),
                         [](const auto& test) { return std::string(kind_cases()[test.param].name); });

}  // namespace lora
