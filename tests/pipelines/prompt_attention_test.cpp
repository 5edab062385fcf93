// Prompts in A1111's syntax: the parser, the chunks, the embeddings and whole pictures, against its rule in float64
// (tools/reference/make_prompt_attention.py).
#include "pipelines/prompt_attention.h"

#include <fmt/format.h>

#include <cmath>
#include <random>

#include "core/utf8.h"
#include "pipelines/prompt_chunks.h"
#include "pipelines/tiny_pipelines.h"

namespace lora {

namespace {

using nlohmann::json;
using WeightedTexts = std::vector<WeightedText>;

const json& cases() {
  static const json all = json::parse(std::ifstream(test_data() / "prompts" / "attention.json"));
  return all;
}

const StateDict& expected() {
  static const auto tensors = load_state_dict(test_data() / "prompts" / "attention.safetensors");
  return tensors;
}

CLIPTokenizer tiny_tokenizer() { return CLIPTokenizer::from_pretrained(embedded_models() / "tiny" / "tokenizer"); }

Prompts prompts(const json& row, const char* name) {
  return row.contains(name) ? Prompts(row[name].get<std::vector<std::string>>()) : Prompts();
}

TextEmbeddings encode(const DiffusionPipeline& pipe, const json& row, PromptSyntax syntax = PromptSyntax::attention) {
  const auto prompt = prompts(row, "prompt"), second = prompts(row, "prompt_2"), third = prompts(row, "prompt_3");
  const auto skip = row.contains("clip_skip") ? std::optional<int>(row["clip_skip"]) : std::nullopt;
  if (auto* sd = dynamic_cast<const StableDiffusionPipeline*>(&pipe))
    return {sd->encode_prompt(prompt, skip, syntax), {}};
  if (auto* xl = dynamic_cast<const StableDiffusionXLPipeline*>(&pipe))
    return xl->encode_prompt(prompt, second, skip, syntax);
  if (auto* sd3 = dynamic_cast<const StableDiffusion3Pipeline*>(&pipe))
    return sd3->encode_prompt(prompt, second, third, skip, row.value("max_sequence_length", 256), syntax);
  return dynamic_cast<const AmusedPipeline&>(pipe).encode_prompt(prompt, syntax);
}

Tensor draw(const DiffusionPipeline& pipe, const Prompts& prompt, CallOptions o = {}) {
  o.num_inference_steps = 2;
  if (o.seed.empty()) o.seed = {1};
  o.prompt_syntax = PromptSyntax::attention;
  const auto config = json::parse(pipe.models().front().model->config());
  if (config.value("in_channels", 4) == 9) o.image = o.mask_image = {tiny::picture("words", {32, 32})};
  return pipe.generate_latents(prompt, o);
}

std::string repeated(const std::string& text, int times) {
  std::string all;
  for (int i = 0; i < times; ++i) all += text;
  return all;
}

}  // namespace

// ---- The parser -----------------------------------------------------------------------------------------------------

// The examples of A1111, and odd texts with what its parser gives for them.
TEST(PromptAttention, IsParsedAsA1111Does) {
  const std::pair<const char*, WeightedTexts> rows[] = {
      {"normal text", {{"normal text"}}},
      {"an (important) word", {{"an "}, {"important", 1.1}, {" word"}}},
      {"(unbalanced", {{"unbalanced", 1.1}}},
      {"\\(literal\\]", {{"(literal]"}}},
      {"(unnecessary)(parens)", {{"unnecessaryparens", 1.1}}},
      {"a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
       {{"a "},
        {"house", 1.5730000000000004},
        {" ", 1.1},
        {"on"},
        {" a ", 1.1},
        {"hill", 0.55},
        {", sun, ", 1.1},
        {"sky", 1.4641000000000006},
        {".", 1.1}}},
      {"", {{""}}},
      {"()", {{""}}},
      {"((word))", {{"word", 1.2100000000000002}}},
      {"[[word]]", {{"word", 0.8264462809917354}}},
      {"(a:1.2)", {{"a", 1.2}}},
      {"(a: 1.2 )", {{"a", 1.2}}},
      {"(a:+1.5)", {{"a", 1.5}}},
      {"(a:-0.5)", {{"a", -0.5}}},
      {"(a:.5)", {{"a", 0.5}}},
      {"(a:1.)", {{"a"}}},
      {"(a:0)", {{"a", 0}}},
      {"((a:1.2):1.5)", {{"a", 1.7999999999999998}}},
      {"(a [b) c]", {{"a ", 1.1}, {"b"}, {" c", 0.9090909090909091}}},
      {"(a:1.2:1.3)", {{"a:1.2", 1.3}}},
      {"(:1.2)", {{""}}},
      // What is no weight is text.
      {"[a:1.2]", {{"a:1.2", 0.9090909090909091}}},
      {"[a:1.2)", {{"a:1.2)", 0.9090909090909091}}},
      {"[a|b]", {{"a|b", 0.9090909090909091}}},
      {"a:1.2)", {{"a:1.2)"}}},
      {"a) b]", {{"a) b]"}}},
      {"(a:x)", {{"a:x", 1.1}}},
      {"(a:)", {{"a:", 1.1}}},
      {"(a:1.2", {{"a:1.2", 1.1}}},
      {"(a:1,2)", {{"a:1,2", 1.1}}},
      {"(a:+-1)", {{"a:+-1", 1.1}}},
      {"(a:1.2.3)", {{"a:1.2.3", 1.1}}},  // an exception in A1111
      {"(a:.)", {{"a:.", 1.1}}},          // the same
      {"a: b", {{"a: b"}}},
      {"a\\b", {{"ab"}}},
      {"a\\\\b", {{"a\\b"}}},
      {"\\", {{""}}},
      // BREAK.
      {"a BREAK b", {{"a"}, {"b", 1, true}}},
      {"aBREAK BREAKb", {{"aBREAK BREAKb"}}},
      {"a break b", {{"a break b"}}},
      {"BREAK", {{""}, {"", 1, true}}},
      {"BREAK a", {{""}, {"a", 1, true}}},
      {"a BREAK BREAK b", {{"a"}, {"", 1, true}, {"b", 1, true}}},
      {"x,BREAK,y", {{"x,"}, {",y", 1, true}}},
      {"BREAK(x)", {{""}, {"", 1, true}, {"x", 1.1}}},
      {"éBREAK _BREAK 1BREAK", {{"éBREAK _BREAK 1BREAK"}}},
      // A1111 makes a word of negative weight of these.
      {"a (b BREAK) c", {{"a "}, {"b", 1.1}, {"", 1.1, true}, {" c"}}},
      {"(a\nBREAK\nb:2)", {{"a", 2}, {"b", 2, true}}},
      {"\xff(b)", {{"\uFFFD"}, {"b", 1.1}}},
  };
  for (const auto& [text, wanted] : rows) {
    const auto got = parse_prompt_attention(text);
    ASSERT_EQ(got.size(), wanted.size()) << text;
    for (size_t i = 0; i < got.size(); ++i) {
      EXPECT_EQ(got[i].text, wanted[i].text) << text;
      EXPECT_EQ(got[i].weight, wanted[i].weight) << text;
      EXPECT_EQ(got[i].begins_chunk, wanted[i].begins_chunk) << text;
    }
  }
}

TEST(PromptAttention, HasFiniteWeightsForAnyText) {
  std::mt19937 random(7);
  const std::vector<std::string> pieces{"(",        ")", "[",     "]", ":", "\\", "1.2",  "-9999999999",  ".",
                                        "+",        "a", "BREAK", " ", ",", "\n", "\xff", "\xe2\x98\x80", "\0",
                                        "(a:1e300)"};
  for (int round = 0; round < 20000; ++round) {
    std::string text;
    for (auto n = random() % 40; n > 0; --n)
      text += random() % 2 ? pieces[random() % pieces.size()] : std::string(1, char(random()));
    const auto parts = parse_prompt_attention(text);
    ASSERT_FALSE(parts.empty());
    EXPECT_FALSE(parts.front().begins_chunk);
    for (size_t i = 0; i < parts.size(); ++i) {
      EXPECT_TRUE(std::isfinite(float(parts[i].weight))) << text;
      EXPECT_TRUE(is_utf8(parts[i].text)) << text;
      EXPECT_TRUE(i == 0 || parts[i].begins_chunk || parts[i].weight != parts[i - 1].weight) << text;
    }
  }
  const auto deep = parse_prompt_attention(repeated("(", 20000) + "a" + repeated(")", 20000));
  ASSERT_EQ(deep.size(), 1);
  EXPECT_TRUE(std::isfinite(float(deep[0].weight)));
  EXPECT_EQ(parse_prompt_attention("(a:" + repeated("9", 400) + ")")[0].weight, 1.1);  // no number
}

// ---- Chunks ---------------------------------------------------------------------------------------------------------

TEST(PromptChunks, AreThoseOfTheReference) {
  const auto tokenizer = tiny_tokenizer();
  for (const auto& row : cases()["chunks"]) {
    const std::string text = row["text"];
    const auto chunks = prompt_chunks(text, tokenizer, {}, row["length"]);
    ASSERT_EQ(chunks.size(), row["ids"].size()) << text;
    for (size_t i = 0; i < chunks.size(); ++i) {
      EXPECT_EQ(chunks[i].ids, row["ids"][i].get<std::vector<int64_t>>()) << text;
      EXPECT_EQ(chunks[i].weights, row["weights"][i].get<std::vector<double>>()) << text;
    }
  }
}

TEST(PromptChunks, OfCLIPHave75Tokens) {
  const auto tokenizer = CLIPTokenizer::openai("!");
  const auto chunks = prompt_chunks(repeated("cat ", 76), tokenizer, {}, tokenizer.model_max_length());
  ASSERT_EQ(chunks.size(), 2);
  std::vector<int64_t> first(77, 2368), second(77, 0);  // "cat", and "!" as padding
  first[0] = second[0] = 49406, first[76] = second[2] = 49407;
  second[1] = 2368;
  EXPECT_EQ(chunks[0].ids, first);
  EXPECT_EQ(chunks[1].ids, second);
  EXPECT_EQ(prompt_chunks("", tokenizer, {}, 77).at(0).ids, tokenizer.encode_padded(""));
}

TEST(PromptChunks, KeepTheTokensOfAWordTogether) {
  const int64_t first = tiny_tokenizer().vocab_size();
  const std::vector<AddedWord> words{{.text = "qzv", .ids = {first, first + 1, first + 2}}};
  const auto tokenizer = tiny_tokenizer().with_words(words);
  for (int before = 0; before <= 33; ++before) {
    const auto chunks = prompt_chunks(repeated("owl ", before) + "(qzv:1.3) owl", tokenizer, words, 32);
    int found = 0;
    for (const auto& chunk : chunks)
      for (size_t i = 0; i < chunk.ids.size(); ++i) {
        if (chunk.ids[i] != first) continue;
        ++found;
        ASSERT_LT(i + 2, chunk.ids.size()) << before;
        EXPECT_EQ(chunk.ids[i + 1], first + 1) << before;
        EXPECT_EQ(chunk.ids[i + 2], first + 2) << before;
        for (size_t j = i; j < i + 3; ++j) EXPECT_EQ(chunk.weights[j], 1.3) << before;
        // A word that does not fit into the rest of a chunk begins the next one.
        EXPECT_EQ(i, size_t(before <= 27 ? before + 1 : before <= 30 ? 1 : before - 29)) << before;
      }
    EXPECT_EQ(found, 1) << before;
  }
  // A word that is longer than a chunk is cut.
  std::vector<int64_t> ids(40);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = first + int64_t(i);
  const std::vector<AddedWord> longer{{.text = "qzv", .ids = ids}};
  EXPECT_EQ(prompt_chunks("owl qzv", tiny_tokenizer().with_words(longer), longer, 32).size(), 2);
  error_of(ErrorKind::usage, [&] { prompt_chunks("owl", tokenizer, {}, 2); });
}

// ---- Embeddings -----------------------------------------------------------------------------------------------------

class PromptAttentionOf : public testing::TestWithParam<std::string> {};

// float64 shows that the rule is the same, up to the rounding of sums. float32 is what users have. transformers' T5
// computes its norms in float32 always.
TEST_P(PromptAttentionOf, GivesTheReferencesEmbeddings) {
  const auto exact = tiny::open(GetParam(), at::kDouble), single = tiny::open(GetParam());
  const bool t5 = GetParam() == "sd35";
  for (const auto& row : cases()["embeddings"]) {
    if (row["pipeline"] != GetParam()) continue;
    const std::string name = row["name"];
    SCOPED_TRACE(name);
    const auto wanted = expected().at(name + ".prompt_embeds");
    const auto got = encode(*exact, row), got_single = encode(*single, row);
    EXPECT_LE(distance(got.prompt_embeds, wanted), t5 ? 2e-6 : 1e-12);
    EXPECT_LE(distance(got_single.prompt_embeds, wanted), 2e-5);
    EXPECT_EQ(got_single.prompt_embeds.scalar_type(), at::kFloat);
    EXPECT_EQ(got.pooled.defined(), expected().contains(name + ".pooled"));
    if (!got.pooled.defined()) continue;
    EXPECT_LE(distance(got.pooled, expected().at(name + ".pooled")), 1e-12);
    EXPECT_LE(distance(got_single.pooled, expected().at(name + ".pooled")), 2e-5);
  }
}

TEST_P(PromptAttentionOf, DrawsTheReferencesPictures) {
  const auto pipe = tiny::open(GetParam());
  for (const auto& row : cases()["pictures"]) {
    if (row["pipeline"] != GetParam()) continue;
    const std::string name = row["name"];
    SCOPED_TRACE(name);
    CallOptions o{.num_inference_steps = row["num_inference_steps"], .seed = {row["seed"].get<uint64_t>()}};
    if (row.contains("negative_prompt")) o.negative_prompt = row["negative_prompt"].get<std::string>();
    o.prompt_syntax = PromptSyntax::attention;
    std::vector<std::string> notes;
    o.callback_on_note = [&](const std::string& text) { notes.push_back(text); };
    const auto latents = pipe->generate_latents(prompts(row, "prompt"), o);
    const auto wanted = expected().at(name + ".latents");
    if (wanted.scalar_type() == at::kLong)
      EXPECT_TRUE(at::equal(latents, wanted)) << (latents != wanted).sum().item<int64_t>();
    else
      EXPECT_LE(distance(latents, wanted), 1e-4);
    EXPECT_TRUE(notes.empty()) << notes[0];  // nothing is cut off
  }
}

// A prompt without brackets that fits is the same in both syntaxes, bit for bit.
TEST_P(PromptAttentionOf, LeavesPlainPromptsAsTheyAre) {
  const auto pipe = tiny::open(GetParam());
  const std::vector<std::string> texts[] = {{"red apple, on a yellow background"}, {"", "owl"}};
  for (const auto& prompt : texts) {
    const json row{{"prompt", prompt}};
    const auto plain = encode(*pipe, row, PromptSyntax::plain), attention = encode(*pipe, row);
    EXPECT_TRUE(same_bits(plain.prompt_embeds, attention.prompt_embeds));
    EXPECT_TRUE(!plain.pooled.defined() || same_bits(plain.pooled, attention.pooled));
  }
}

// Adapters of one image act on all chunks of its prompt, and on no other image.
TEST_P(PromptAttentionOf, WorksWithAdaptersOfImages) {
  auto pipe = tiny::open(GetParam());
  pipe->load_lora_weights(tiny::factors(*pipe, "one", {"q_proj", "v_proj", "fc1", "wi_0"}, 2), {.adapter_name = "one"});
  const std::string text = "(red:1.3) apple BREAK " + repeated("owl ", 35);
  CallOptions with, without, each;
  with.adapters = {{.name = "one", .weight = 0.8}};
  without.adapters.emplace();
  each.num_images_per_prompt = 2;
  each.seed = {1, 1};
  each.adapters_per_image = {*with.adapters, {}};
  const auto first = draw(*pipe, text, with), second = draw(*pipe, text, without), both = draw(*pipe, text, each);
  EXPECT_FALSE(at::equal(first, second));
  EXPECT_LE(distance(both.slice(0, 0, 1), first), 1e-4);
  EXPECT_LE(distance(both.slice(0, 1, 2), second), 1e-4);
}

// A word of an adapter has the vectors of two words, so both prompts are the same.
TEST_P(PromptAttentionOf, WeighsWordsOfAdapters) {
  auto pipe = tiny::open(GetParam());
  auto file = tiny::factors(*pipe, "words", {"to_q", "query"}, 2);
  const std::map<std::string, std::string> tails{
      {"text_encoder", "clip_l"}, {"text_encoder_2", "clip_g"}, {"text_encoder_3", "t5"}};
  for (const auto& [component, model] : pipe->models()) {
    if (!parts_of(*model).vocabulary) continue;
    std::vector<int64_t> ids{0};
    if (component == "text_encoder_3") {
      ids = dynamic_cast<StableDiffusion3Pipeline&>(*pipe).tokenizer_3->encode("red apple");
      ids.pop_back();
    } else {
      ids = tiny_tokenizer().encode("red apple");
      ids = {ids.begin() + 1, ids.end() - 1};
    }
    file.set("bundle_emb.qzv." + tails.at(component),
             parts_of(*model).vocabulary->weight.index_select(0, at::tensor(ids, at::kLong)));
  }
  pipe->load_lora_weights(file, {.adapter_name = "words"});
  const auto wanted = draw(*pipe, "an (red apple:1.4) here");
  EXPECT_TRUE(same_bits(draw(*pipe, "an (qzv:1.4) here"), wanted));
  auto embeds = [&](const std::vector<std::string>& prompt) {
    return encode(*pipe, json{{"prompt", prompt}}).prompt_embeds;
  };
  EXPECT_TRUE(same_bits(embeds({"an (qzv:1.4) here"}), embeds({"an (red apple:1.4) here"})));
  EXPECT_FALSE(same_bits(embeds({"an (qzv:1.4) here"}), embeds({"an qzv here"})));
}

INSTANTIATE_TEST_SUITE_P(Pipelines, PromptAttentionOf, testing::ValuesIn(tiny::names()), tiny::test_name);

// ---- Notes and errors -----------------------------------------------------------------------------------------------

namespace {

std::vector<std::string> notes_of(const char* pipeline, PromptSyntax syntax, CallOptions o, const Prompts& prompt) {
  const auto pipe = tiny::open(pipeline);
  std::vector<std::string> notes;
  o.num_inference_steps = 1;
  o.prompt_syntax = syntax;
  o.callback_on_note = [&](const std::string& text) { notes.push_back(text); };
  pipe->generate_latents(prompt, o);
  return notes;
}

}  // namespace

// With plain syntax, each text encoder tells what it does not read, of the prompt and of the negative prompt.
TEST(PromptAttention, TellsWhatIsCutOff) {
  const auto text = repeated("red ", 30) + "owl cactus";
  CallOptions o;
  o.negative_prompt = repeated("blue ", 30) + "green";
  auto of = [](const std::string& component, int tokens, const std::string& what, const std::string& end) {
    return component + " reads " + std::to_string(tokens) + " tokens of the " + what +
           ". It does not read the end: \"" + end + "\"";
  };
  const auto first = of("text_encoder", 32, "prompt", "owl cactus"),
             negative = of("text_encoder", 32, "negative prompt", "green");
  for (const char* pipeline : {"sd", "amused-256"})
    EXPECT_EQ(notes_of(pipeline, PromptSyntax::plain, o, text), (std::vector{first, negative})) << pipeline;
  const auto first_2 = of("text_encoder_2", 32, "prompt", "owl cactus"),
             negative_2 = of("text_encoder_2", 32, "negative prompt", "green");
  EXPECT_EQ(notes_of("sdxl", PromptSyntax::plain, o, text), (std::vector{first, first_2, negative, negative_2}));

  // T5 has its own length, in both syntaxes.
  o.max_sequence_length = 4;
  auto notes = notes_of("sd35", PromptSyntax::plain, o, text);
  ASSERT_EQ(notes.size(), 6);
  EXPECT_EQ(notes[0], first);
  EXPECT_EQ(notes[1], first_2);
  EXPECT_TRUE(notes[2].starts_with("text_encoder_3 reads 4 tokens of the prompt. It does not read the end: \""))
      << notes[2];
  notes = notes_of("sd35", PromptSyntax::attention, o, "(" + text + ":1.2)");
  ASSERT_EQ(notes.size(), 2);
  EXPECT_TRUE(notes[0].starts_with("text_encoder_3 reads 4 tokens of the prompt.")) << notes[0];
  EXPECT_TRUE(notes[0].ends_with("owl cactus\"")) << notes[0];
  EXPECT_TRUE(notes[1].starts_with("text_encoder_3 reads 4 tokens of the negative prompt.")) << notes[1];
  for (const char* pipeline : {"sd", "sdxl", "amused-256"})
    EXPECT_TRUE(
        notes_of(pipeline, PromptSyntax::attention, CallOptions{.negative_prompt = o.negative_prompt}, text).empty());
}

// A weight that makes the mean almost 0. To restore the mean, the states would become too large for float16.
TEST(PromptAttention, RefusesWeightsThatGiveNoNumbers) {
  const auto pipe = tiny::open("sd", at::kHalf);
  const auto states = dynamic_cast<const StableDiffusionPipeline&>(*pipe).encode_prompt("red owl").to(at::kDouble)[0];
  const auto red = states[1].sum().item<double>();
  const auto prompt = fmt::format("(red:{:.17f}) owl", (red - states.sum().item<double>()) / red);
  const auto message = error_of(ErrorKind::usage, [&] { draw(*pipe, prompt); });
  EXPECT_NE(message.find("the weights of the prompt's words"), std::string::npos) << message;
}

// Embeddings that are given have their own number of chunks.
TEST(PromptAttention, GoesWithGivenEmbeddings) {
  const auto pipe = tiny::open("sd");
  const auto& sd = dynamic_cast<const StableDiffusionPipeline&>(*pipe);
  const auto both = sd.encode_prompt({"(red:1.3) apple BREAK owl", "blue"}, {}, PromptSyntax::attention);
  CallOptions given, texts;
  given.prompt_embeds = both.slice(0, 0, 1), given.negative_prompt_embeds = both.slice(0, 1, 2);
  texts.negative_prompt = "blue";
  EXPECT_TRUE(same_bits(draw(*pipe, {}, given), draw(*pipe, "(red:1.3) apple BREAK owl", texts)));
  given.negative_prompt_embeds = Tensor();
  given.negative_prompt = "blue";
  error_of(ErrorKind::bad_shape, [&] { draw(*pipe, {}, given); });
}

}  // namespace lora
