// CLIP's own tokenizer, which is part of the library.
#include <gtest/gtest.h>

#include "lora/tokenizer.h"
#include "support/folder.h"

namespace lora {

TEST(OpenaiTokenizer, GivesTheIdsOfThePublishedVocabulary) {
  auto tokenizer = CLIPTokenizer::openai();
  EXPECT_EQ(tokenizer.vocab_size(), 49408);
  EXPECT_EQ(tokenizer.model_max_length(), 77);
  EXPECT_EQ(tokenizer.encode("a photo of a cat"), (std::vector<int64_t>{49406, 320, 1125, 539, 320, 2368, 49407}));
  EXPECT_EQ(tokenizer.encode_padded("").back(), 49407);
  EXPECT_EQ(CLIPTokenizer::openai("!").encode_padded("").back(), 0);
}

TEST(OpenaiTokenizer, IsTheSameWhenSavedAndLoaded) {
  TemporaryFolder folder;
  for (auto pad : {"<|endoftext|>", "!"}) {
    auto built_in = CLIPTokenizer::openai(pad);
    built_in.save_pretrained(folder / "tokenizer");
    auto loaded = CLIPTokenizer::from_pretrained(folder / "tokenizer");
    for (auto text : {"a photo of a cat", "Ünïcode 🐈 naïve!?", "<|endoftext|> it's 2026"})
      EXPECT_EQ(loaded.encode_padded(text), built_in.encode_padded(text)) << text;
    loaded.save_pretrained(folder / "again");
    EXPECT_EQ(CLIPTokenizer::from_pretrained(folder / "again").encode("rocket"), built_in.encode("rocket"));
  }
}

}  // namespace lora
