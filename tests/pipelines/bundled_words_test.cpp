// A LoRA file with embeddings adds words to prompts. The words come and go with the adapter, on every pipeline.
#include <atomic>
#include <thread>

#include "pipelines/words.h"

namespace lora {

namespace {

using nlohmann::json;

// A LoRA with a word that has the same vectors as a text, in each text encoder.
StateDict with_word(const DiffusionPipeline& pipe, const std::string& word, const std::string& text) {
  auto file = tiny::factors(pipe, "words", {"to_q", "query"}, 2);
  for (const auto& [name, vectors] : tiny::vectors_of(pipe, text)) file.set("bundle_emb." + word + "." + name, vectors);
  return file;
}

Tensor draw(const DiffusionPipeline& pipe, const std::string& prompt) { return tiny::draw_latents(pipe, prompt); }

std::unique_ptr<DiffusionPipeline> stable_diffusion() { return tiny::open("sd"); }

class BundledWords : public testing::TestWithParam<std::string> {};

}  // namespace

// The word has the vectors of "red apple", so every text encoder gives both prompts the same embeddings.
TEST_P(BundledWords, DrawWhatTheirVectorsSay) {
  auto pipe = tiny::open(GetParam());
  auto before = draw(*pipe, "a qzv.1 here");
  auto report = pipe->load_lora_weights(with_word(*pipe, "qzv.1", "red apple"), {.adapter_name = "one"});
  EXPECT_EQ(report.embeddings, std::vector<std::string>{"qzv.1"});
  EXPECT_TRUE(report.unmatched.empty()) << report.text();

  auto wanted = draw(*pipe, "a red apple here");
  EXPECT_TRUE(same_bits(draw(*pipe, "a qzv.1 here"), wanted));
  EXPECT_FALSE(same_bits(draw(*pipe, "a qzv here"), wanted));

  // Words stay whatever the adapter's weight is, and in calls that use other adapters.
  pipe->set_adapters({"one"}, {0.5});
  EXPECT_TRUE(same_bits(draw(*pipe, "a qzv.1 here"), draw(*pipe, "a red apple here")));
  pipe->disable_lora();
  EXPECT_TRUE(same_bits(draw(*pipe, "a qzv.1 here"), draw(*pipe, "a red apple here")));
  pipe->enable_lora();

  pipe->delete_adapters({"one"});
  EXPECT_TRUE(same_bits(draw(*pipe, "a qzv.1 here"), before));
}

INSTANTIATE_TEST_SUITE_P(Pipelines, BundledWords, testing::ValuesIn(tiny::names()), tiny::test_name);

TEST(BundledWords, AreInTheReport) {
  auto pipe = stable_diffusion();
  auto file = with_word(*pipe, "qzv", "red apple");
  file.set("bundle_emb.qzv.clip_g", at::ones({1, 8}));
  file.set("bundle_emb.qzv.clip_l_out", at::ones({1, 8}));
  auto report = pipe->load_lora_weights(file);
  EXPECT_NE(report.text().find("words for prompts: qzv"), std::string::npos) << report.text();
  EXPECT_EQ(json::parse(report.json())["embeddings"], json::array({"qzv"}));
  ASSERT_EQ(report.unmatched.size(), 2);
  EXPECT_EQ(report.unmatched[0].key, "bundle_emb.qzv.clip_l_out");
  EXPECT_EQ(report.unmatched[1].key, "bundle_emb.qzv.clip_g");
}

TEST(BundledWords, GoWithUnloadAndChangeWithHotswap) {
  auto pipe = stable_diffusion();
  auto before = draw(*pipe, "qzv");
  pipe->load_lora_weights(with_word(*pipe, "qzv", "red apple"), {.adapter_name = "one"});
  pipe->load_lora_weights(with_word(*pipe, "qzv", "blue bird"), {.adapter_name = "one", .hotswap = true});
  EXPECT_TRUE(same_bits(draw(*pipe, "qzv"), draw(*pipe, "blue bird")));
  pipe->load_lora_weights(with_word(*pipe, "kwx", "blue bird"), {.adapter_name = "one", .hotswap = true});
  EXPECT_TRUE(same_bits(draw(*pipe, "kwx"), draw(*pipe, "blue bird")));
  EXPECT_FALSE(same_bits(draw(*pipe, "qzv"), draw(*pipe, "blue bird")));
  pipe->unload_lora_weights();
  EXPECT_TRUE(same_bits(draw(*pipe, "qzv"), before));
}

TEST(BundledWords, OfTwoAdaptersMustBeTold) {
  auto pipe = stable_diffusion();
  pipe->load_lora_weights(with_word(*pipe, "qzv", "red apple"), {.adapter_name = "one"});
  auto wanted = draw(*pipe, "qzv");
  for (const char* word : {"qzv", "QZV"}) {
    auto message = error_of(ErrorKind::conflict, [&] { pipe->load_lora_weights(with_word(*pipe, word, "blue bird")); });
    EXPECT_NE(message.find(word), std::string::npos) << message;
    EXPECT_TRUE(same_bits(draw(*pipe, "qzv"), wanted));
    EXPECT_EQ(pipe->get_active_adapters(), std::vector<std::string>{"one"});
  }
  // Two adapters may have a word with the same vectors. It stays until both are deleted.
  pipe->load_lora_weights(with_word(*pipe, "qzv", "red apple"), {.adapter_name = "two"});
  pipe->load_lora_weights(with_word(*pipe, "kwx", "blue bird"), {.adapter_name = "three"});
  pipe->delete_adapters({"one"});
  EXPECT_TRUE(same_bits(draw(*pipe, "qzv kwx"), draw(*pipe, "red apple blue bird")));
}

TEST(BundledWords, OfAnotherEncodersWidthAreRefused) {
  auto pipe = stable_diffusion();
  auto file = with_word(*pipe, "qzv", "red apple");
  file.set("bundle_emb.qzv.clip_l", at::ones({2, 7}));
  auto message = error_of(ErrorKind::bad_shape, [&] { pipe->load_lora_weights(file); });
  EXPECT_NE(message.find("bundle_emb.qzv.clip_l"), std::string::npos) << message;
  EXPECT_NE(message.find("text_encoder"), std::string::npos) << message;
  EXPECT_TRUE(pipe->get_list_adapters().empty());
}

// Each text is encoded either with the word or without it, whatever other threads load meanwhile.
TEST(BundledWords, AreOneStateInACall) {
  auto pipe = stable_diffusion();
  const auto& sd = dynamic_cast<const StableDiffusionPipeline&>(*pipe);
  auto file = with_word(*pipe, "qzv", "red apple");
  auto without = sd.encode_prompt("a qzv here");
  pipe->load_lora_weights(file, {.adapter_name = "one"});
  auto with = sd.encode_prompt("a qzv here");
  EXPECT_FALSE(same_bits(with, without));
  pipe->delete_adapters({"one"});

  std::atomic<bool> done = false;
  std::atomic<int> odd = 0;
  auto encode = [&] {
    for (int i = 0; i < 12; ++i) {
      try {
        auto got = sd.encode_prompt("a qzv here");
        odd += !same_bits(got, with) && !same_bits(got, without);
        draw(*pipe, "a qzv here");
      } catch (const Error&) {
        ++odd;
      }
    }
  };
  std::thread loader([&] {
    while (!done) {
      pipe->load_lora_weights(file, {.adapter_name = "one"});
      pipe->delete_adapters({"one"});
    }
  });
  std::vector<std::thread> encoders;
  for (int i = 0; i < 2; ++i) encoders.emplace_back(encode);
  for (auto& encoder : encoders) encoder.join();
  done = true;
  loader.join();
  EXPECT_EQ(odd, 0);
}

}  // namespace lora
