// What PEFT's configs say of a file's layers, and which of them are refused.
#include "loaders/metadata.h"

#include <nlohmann/json.hpp>

#include "support/compare.h"

namespace lora {

namespace {

using nlohmann::json;

LoraConfig read(const json& fields) {
  return *config_for("unet", {{kAdapterMetadata, prefixed_metadata(fields.dump(), "unet")}}, "x.safetensors");
}

std::string refused(const json& fields) {
  return error_of(ErrorKind::unsupported, [&] { read(fields); });
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST(AdapterMetadata, EachTypeHasItsFields) {
  auto lora = read({{"r", 4}, {"lora_alpha", 2}, {"use_rslora", true}, {"alpha_pattern", {{"to_q", 6}}}});
  EXPECT_EQ(lora.alpha("a.to_q"), 6);
  EXPECT_EQ(lora.alpha("a.to_k"), 2);
  EXPECT_TRUE(lora.use_rslora);
  auto lokr = read({{"peft_type", "LOKR"}, {"r", 4}, {"alpha", 3}, {"lora_alpha", 9}, {"rank_pattern", {{"to_q", 2}}}});
  EXPECT_EQ(lokr.alpha("a.to_q"), 3);
  EXPECT_EQ(lokr.rank("a.to_q"), 2);
  EXPECT_EQ(lokr.rank("a.to_k"), 4);
  auto oft = read({{"peft_type", "OFT"}, {"coft", true}, {"eps", 1e-3}, {"use_cayley_neumann", false}});
  EXPECT_EQ(oft.coft_eps, 1e-3);
  EXPECT_FALSE(oft.use_cayley_neumann);
  EXPECT_EQ(read({{"peft_type", "OFT"}, {"eps", 1e-3}}).coft_eps, 0);
  EXPECT_TRUE(read({{"peft_type", "IA3"}, {"feedforward_modules", {"fc2"}}}).is_feedforward("mlp.fc2"));
  EXPECT_TRUE(read({{"peft_type", "IA3"}, {"feedforward_modules", ".*fc2"}}).is_feedforward("mlp.fc2"));
}

TEST(AdapterMetadata, WhatTheFactorsDoNotTellIsRefused) {
  for (const char* start : {"pissa", "pissa_niter_16", "olora", "corda", "loftq", "lora_ga"})
    EXPECT_TRUE(contains(refused({{"init_lora_weights", start}}), start));
  for (const char* start : {"gaussian", "eva", "orthogonal", "mica"}) read({{"init_lora_weights", start}});
  read({{"init_lora_weights", true}});

  EXPECT_TRUE(contains(refused({{"use_qalora", true}}), "use_qalora"));
  EXPECT_TRUE(contains(refused({{"alora_invocation_tokens", {1, 2}}}), "alora_invocation_tokens"));
  read({{"use_qalora", false}, {"alora_invocation_tokens", nullptr}});
  EXPECT_TRUE(contains(refused({{"peft_type", "BOFT"}}), "BOFT"));
}

// The message names the component, the field and its value, in words of its own.
TEST(AdapterMetadata, AFieldOfTheWrongTypeIsABadFile) {
  struct Bad {
    const char* field;
    std::vector<json> values;
    json beside = json::object();
  };
  const std::vector<json> no_numbers{"four", nullptr, true, json::array({4}), json{{"a", 4}}};
  const std::vector<json> no_objects{json::array({4}), "to_q", 4, true};
  const std::vector<json> no_flags{"yes", 1, json::array({true}), json::object()};
  const json oft{{"peft_type", "OFT"}}, turned{{"peft_type", "OFT"}, {"coft", true}};
  const Bad all[] = {
      {"r", no_numbers},
      {"lora_alpha", no_numbers},
      {"alpha", no_numbers, {{"peft_type", "LOKR"}}},
      {"alpha_pattern", no_objects},
      {"rank_pattern", no_objects},
      {"use_rslora", no_flags},
      {"peft_type", {4, true, json::array({"LORA"})}},
      {"feedforward_modules", {4, true, json::object(), json::array({4})}, {{"peft_type", "IA3"}}},
      {"use_cayley_neumann", no_flags, oft},
      {"num_cayley_neumann_terms", {"five", nullptr, 2.5, json::array({5})}, oft},
      {"coft", no_flags, oft},
      {"eps", no_numbers, turned},
  };
  for (const auto& [field, values, beside] : all)
    for (const auto& value : values) {
      auto fields = beside;
      fields[field] = value;
      auto message = error_of(ErrorKind::bad_file, [&] { read(fields); });
      for (const std::string part : {"unet", field}) EXPECT_TRUE(contains(message, part)) << message;
      EXPECT_TRUE(contains(message, value.is_array() && !value.empty() ? value[0].dump() : value.dump())) << message;
      EXPECT_FALSE(contains(message, "json")) << message;
    }
  for (const char* field : {"alpha_pattern", "rank_pattern"})
    for (const json& bad : {json{{"to_q", "4"}}, json{{"to_q", nullptr}}}) {
      auto message = error_of(ErrorKind::bad_file, [&] { read({{field, bad}}); });
      EXPECT_TRUE(contains(message, std::string(field) + " of to_q is " + bad["to_q"].dump())) << message;
    }
  for (const char* field : {"use_rslora", "alpha_pattern", "feedforward_modules", "peft_type"})
    EXPECT_EQ(read({{field, nullptr}, {"lora_alpha", 3}}).lora_alpha, 3) << field << " is null";
  error_of(ErrorKind::bad_file, [] { read({{"peft_type", "OFT"}, {"num_cayley_neumann_terms", 0}}); });
  error_of(ErrorKind::bad_file, [] { read({{"peft_type", "OFT"}, {"coft", true}, {"eps", 0}}); });
  error_of(ErrorKind::bad_file, [] { config_for("unet", {{kAdapterMetadata, "[1]"}}, "x.safetensors"); });
  EXPECT_FALSE(config_for("text_encoder", {{kAdapterMetadata, R"({"unet.r": 4})"}}, "x.safetensors"));
}

TEST(LoraConfig, PatternsMatchWholeNames) {
  LoraConfig config{.lora_alpha = 8,
                    .alpha_pattern = {{"to_k", 4}, {"^conv_in", 2}, {"^mid.*\\.to_v", 3}, {"to_out.0|^a.b", 5}}};
  EXPECT_EQ(config.alpha("mid_block.attn2.to_k"), 4);
  EXPECT_EQ(config.alpha("to_k"), 4);
  EXPECT_EQ(config.alpha("mid_block.attn2.xto_k"), 8);
  EXPECT_EQ(config.alpha("conv_in"), 2);
  EXPECT_EQ(config.alpha("x.conv_in"), 8);
  EXPECT_EQ(config.alpha("mid_block.attn2.to_v"), 3);
  EXPECT_EQ(config.alpha("down.mid.to_v"), 8);
  EXPECT_EQ(config.alpha("attn.to_out.0"), 5);
  EXPECT_EQ(config.alpha("a_b"), 5) << "a dot is any character";
  LoraConfig broken{.alpha_pattern = {{"to_(", 4}}};
  error_of(ErrorKind::bad_file, [&] { broken.alpha("to_k"); });
}

TEST(LoraConfig, ErrorsOfPatternsNameTheirFile) {
  LoraConfig broken{.name = "adapter_config.json", .alpha_pattern = {{"to_(", 4}}};
  EXPECT_TRUE(contains(error_of(ErrorKind::bad_file, [&] { broken.alpha("to_k"); }), "adapter_config.json: "));
}

// PEFT trains models under the names of their own code, and its patterns have those.
TEST(LoraConfig, PatternsMayHaveTheNamesOfTheFile) {
  LoraConfig config{.lora_alpha = 8,
                    .r = 4,
                    .alpha_pattern = {{"img_attn.qkv", 2}},
                    .rank_pattern = {{"^double_blocks.0.img_attn.qkv", 2}}};
  LoraLayer layer{.path = "transformer_blocks.0.attn.to_q",
                  .tensors = {{"lora_A.weight", at::ones({2, 4})}, {"lora_B.weight", at::ones({4, 2})}},
                  .keys = {{"lora_A.weight", "base_model.model.double_blocks.0.img_attn.qkv.lora_A.weight"}}};
  config.apply(layer);
  EXPECT_EQ(layer.alpha, 2);
  layer.keys["lora_A.weight"] = "base_model.model.double_blocks.1.img_attn.qkv.lora_A.weight";
  auto message = error_of(ErrorKind::bad_file, [&] { config.apply(layer); });
  EXPECT_TRUE(contains(message, "r = 4")) << message;
  EXPECT_TRUE(contains(message, "rank 2")) << message;
}

TEST(LoraConfig, FeedforwardModulesAreEndsOfNamesOrAnExpression) {
  LoraConfig ends{.feedforward_modules = {"ff.net.2", "fc2"}};
  EXPECT_TRUE(ends.is_feedforward("mid.ff.net.2"));
  EXPECT_FALSE(ends.is_feedforward("mid.ff.net.0"));
  LoraConfig expression{.feedforward_pattern = ".*net.*"};
  EXPECT_TRUE(expression.is_feedforward("mid.ff.net.0"));
  EXPECT_FALSE(expression.is_feedforward("mid.attn"));
}

}  // namespace lora
