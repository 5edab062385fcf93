// CLIP's merges, which the assembler embeds, and the vocabulary made from them.
#include "core/text.h"
#include "core/utf8.h"
#include "tokenizers/tokenizer_files.h"

asm(R"(
    .section .rodata
    .global lora_clip_merges_begin
    .global lora_clip_merges_end
lora_clip_merges_begin:
    .incbin ")" LORA_CLIP_MERGES R"("
lora_clip_merges_end:
    .byte 0
    .text
)");

extern "C" const char lora_clip_merges_begin[], lora_clip_merges_end[];

namespace lora {

std::string_view openai_merges() { return {lora_clip_merges_begin, lora_clip_merges_end}; }

namespace {

// All tokens in the order of their ids: the printable bytes; the other bytes; the same bytes at the end of a word; the
// result of each merge; the two special tokens.
std::vector<std::string> openai_tokens() {
  std::vector<std::string> tokens, others;
  for (auto character : byte_characters()) (character < 0x100 ? tokens : others).push_back(to_utf8({&character, 1}));
  tokens.insert(tokens.end(), others.begin(), others.end());
  for (size_t i = 0; i < 256; ++i) tokens.push_back(tokens[i] + std::string(kEndOfWord));
  for (const auto& line : split(openai_merges(), '\n'))
    if (!line.empty() && !line.starts_with("#version")) tokens.push_back(replace_all(line, " ", ""));
  tokens.insert(tokens.end(), {"<|startoftext|>", "<|endoftext|>"});
  return tokens;
}

}  // namespace

TokenizerFiles openai_tokenizer_files() {
  auto tokens = openai_tokens();
  std::vector<VocabularyEntry> entries;
  for (size_t i = 0; i < tokens.size(); ++i) entries.push_back({tokens[i], static_cast<int64_t>(i)});
  Vocabulary vocabulary(std::move(entries), "CLIP's vocabulary");
  auto merges = parse_merges(openai_merges(), vocabulary, "CLIP's merges");
  return {std::move(vocabulary), std::move(merges), nlohmann::json::object()};
}

}  // namespace lora
