// The JSON of weights, and what errors say of them.
#include <gmock/gmock.h>

#include "loaders/tiny_pipeline.h"

namespace lora {

namespace {

using testing::AllOf;
using testing::HasSubstr;

const std::string kLayer = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q";

}  // namespace

TEST(Scales, ANameStandsOnceInAnObject) {
  for (auto [text, name] : {std::pair(R"({"unet": 1, "unet": 2})", "\"unet\" twice"),
                            {R"({"unet": 1, "text_encoder": 0, "unet": 1})", "\"unet\" twice"},
                            {R"({"unet": {"down": 1, "mid": 2, "down": 3}})", "\"down\" twice"},
                            {R"({"unet": {"up": {"block_0": 1, "block_0": 2}}})", "\"block_0\" twice"},
                            {R"({"unet": {"down": 1}, "unet": {"up": 1}})", "\"unet\" twice"},
                            {R"({"a\u0062": 1, "ab": 2})", "\"ab\" twice"}})
    EXPECT_THAT(error_of(ErrorKind::usage, [text = text] { LoraScale::parse(text); }), HasSubstr(name)) << text;
  // In two objects it stands for two things.
  auto scale = LoraScale::parse(R"({"unet": {"down": {"block_1": 0.2}, "up": {"block_1": 0.3}}, "text_encoder": 0.4})");
  ASSERT_TRUE(scale.dict());
  EXPECT_EQ(scale.dict()->size(), 2u);
  const auto& unet = scale.dict()->at(0).second.dict() ? scale.dict()->at(0) : scale.dict()->at(1);
  EXPECT_EQ(unet.first, "unet");
  ASSERT_TRUE(unet.second.dict());
  for (const auto& [part, blocks] : *unet.second.dict())
    EXPECT_EQ(*blocks.dict()->at(0).second.number(), part == "down" ? 0.2 : 0.3) << part;
}

TEST(Scales, ErrorsNameTheAdapter) {
  TinyPipeline pipe;
  const StateDict file{{kLayer + ".lora_A.weight", at::ones({1, 20})}, {kLayer + ".lora_B.weight", at::ones({20, 1})}};
  for (const char* name : {"ink", "blue"}) pipe.load_lora_weights(file, {.adapter_name = name});
  for (auto [text, part] : {std::pair(R"({"unet": {"middle": 1}})", "on unet: it does not have a part \"middle\""),
                            {R"({"unet": {"down": {"block_9": 1}}})", "on unet.down: it does not have \"block_9\""},
                            {R"({"unet": [1, 2]})", "on unet: a number, or numbers by block"},
                            {R"({"text_encoder": {"layer_9": 1}})", "on text_encoder: it does not have a layer"},
                            {R"({"text_encoder": {"layers_0-0": 1, "layer_0": 2}})", "both name layer 0"},
                            {R"({"unet": 1e60})", "on unet is 1e+60"},
                            {"[1, 2]", "a number, or numbers by component"}}) {
    SCOPED_TRACE(text);
    auto scale = LoraScale::parse(text);
    const auto* component =
        std::string_view(text).find("text_encoder") == std::string_view::npos ? "unet" : "text_encoder";
    auto set = [&] { pipe.set_adapters({"ink", "blue"}, {1.0, scale}); };
    auto get = [&] { pipe.get_lora_layers(component, "blue", scale); };
    for (const auto& message : {error_of(ErrorKind::usage, set), error_of(ErrorKind::usage, get)})
      EXPECT_THAT(message, AllOf(HasSubstr("the weight of \"blue\""), HasSubstr(part)));
  }
}

}  // namespace lora
