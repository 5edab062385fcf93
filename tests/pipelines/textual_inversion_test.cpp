// load_textual_inversion() on every pipeline, against diffusers (tools/reference/make_textual_inversion.py).
#include <fmt/format.h>
#include <gmock/gmock.h>

#include <cmath>

#include "core/text.h"
#include "pipelines/words.h"

namespace lora {

namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::HasSubstr;
using testing::IsEmpty;

fs::path data(const std::string& name) { return test_data() / "embeddings" / name; }

Tensor draw(const DiffusionPipeline& pipe, const Prompts& prompt, PromptSyntax syntax = PromptSyntax::plain) {
  return tiny::draw_latents(pipe, prompt, {.prompt_syntax = syntax});
}

// The CLIP text encoders of a pipeline, with their tokenizers.
std::map<std::string, std::pair<const CLIPTextModel*, const CLIPTokenizer*>> clips(const DiffusionPipeline& pipe) {
  if (auto* sd = dynamic_cast<const StableDiffusionPipeline*>(&pipe))
    return {{"text_encoder", {&sd->text_encoder, &sd->tokenizer}}};
  if (auto* amused = dynamic_cast<const AmusedPipeline*>(&pipe))
    return {{"text_encoder", {&amused->text_encoder, &amused->tokenizer}}};
  if (auto* xl = dynamic_cast<const StableDiffusionXLPipeline*>(&pipe))
    return {{"text_encoder", {&*xl->text_encoder, &*xl->tokenizer}},
            {"text_encoder_2", {&xl->text_encoder_2, &xl->tokenizer_2}}};
  const auto& sd3 = dynamic_cast<const StableDiffusion3Pipeline&>(pipe);
  return {{"text_encoder", {&sd3.text_encoder, &sd3.tokenizer}},
          {"text_encoder_2", {&sd3.text_encoder_2, &sd3.tokenizer_2}}};
}

std::unique_ptr<DiffusionPipeline> stable_diffusion() { return tiny::open("sd"); }

// A file of one text encoder: vectors of "sd".
StateDict file_of(const std::string& key, int64_t vectors = 2) { return {{key, at::ones({vectors, 16}) * 0.2}}; }

class TextualInversions : public testing::TestWithParam<std::string> {};

}  // namespace

TEST(TextualInversion, DrawsAsDiffusersDoes) {
  const auto all = json::parse(std::ifstream(data("inversions.json")));
  const auto expected = load_state_dict(data("inversions.safetensors"));
  for (const auto& row : all["cases"]) {
    const std::string name = row["name"], prompt = row["prompt"];
    SCOPED_TRACE(name);
    auto pipe = tiny::open(row["pipeline"]);
    for (const auto& [word, count] : row["words"].items()) {
      StateDict file;
      for (const auto& [component, clip] : clips(*pipe))
        file.set(tiny::kEncoderNames.at(component),
                 (0.3 * reference::noise(fmt::format("{}.{}.{}", name, word, component),
                                         {count.get<int64_t>(), clip.first->hidden_size()}))
                     .to(at::kFloat));
      pipe->load_textual_inversion(file, {.token = word});
    }
    for (const auto& [component, clip] : clips(*pipe)) {
      const auto ids = clip.second->with_words(clip.first->added_words()).encode_padded(prompt);
      const auto states = (*clip.first)(at::tensor(ids, at::kLong).unsqueeze(0)).hidden_states;
      expect_close(states[states.size() - 2], expected.at(name + "." + component), 2e-5);
    }
    CallOptions o{.num_inference_steps = all["steps"], .seed = {all["seed"].get<uint64_t>()}};
    if (pipe->class_name() == std::string("StableDiffusion3Pipeline"))
      o.max_sequence_length = all["max_sequence_length"];
    for (auto syntax : {PromptSyntax::plain, PromptSyntax::attention}) {
      o.prompt_syntax = syntax;
      const auto latents = pipe->generate_latents(prompt, o), wanted = expected.at(name + ".latents");
      if (wanted.is_floating_point())
        expect_close(latents, wanted, 1e-4);
      else
        EXPECT_TRUE(at::equal(latents, wanted));
    }
  }
}

// Every form of a file gives the same word.
TEST(TextualInversion, ReadsTheFormsOfAllPrograms) {
  TemporaryFolder folder;
  const auto rows = load_state_dict(data("learned_embeds.bin")).at("<qzv>");
  save_safetensors({{"emb_params", rows}}, folder / "toy-kohya.safetensors");
  save_safetensors({{"<qzv>", rows}}, folder / "toy-diffusers.safetensors");
  save_safetensors({{"clip_l", rows}}, folder / "toy-comfyui.safetensors");
  fs::create_directory(folder / "concept");
  fs::copy(data("learned_embeds.bin"), folder / "concept");
  save_safetensors({{"emb_params", at::ones({1, 16})}}, folder / "concept" / "another.safetensors");
  StateDict a1111{{"string_to_param.*", rows}}, one_vector{{"<qzv>", rows[0]}};
  a1111.metadata["name"] = "toy-name";
  struct Row {
    LoraSource source;
    LoadTextualInversionOptions options;
    std::string word, form;
  };
  const auto wanted = [&] {
    auto pipe = stable_diffusion();
    pipe->load_textual_inversion(StateDict{{"qzv", rows}});
    return draw(*pipe, "a qzv here");
  }();
  for (const auto& [source, options, word, form] :
       std::vector<Row>{{data("a1111.pt"), {}, "a1111", "a1111"},  // not "an old name", which is in the file
                        {data("a1111.pt"), {.token = "Kwx"}, "Kwx", "a1111"},
                        {data("learned_embeds.bin"), {}, "<qzv>", "diffusers"},
                        {folder / "toy-kohya.safetensors", {}, "toy-kohya", "kohya"},
                        {folder / "toy-diffusers.safetensors", {}, "<qzv>", "diffusers"},
                        {folder / "toy-comfyui.safetensors", {}, "toy-comfyui", "comfyui"},
                        {folder / "concept", {.use_safetensors = false}, "<qzv>", "diffusers"},
                        {folder / "concept", {.weight_name = "learned_embeds.bin"}, "<qzv>", "diffusers"},
                        {a1111, {}, "toy-name", "a1111"}}) {
    SCOPED_TRACE(word + " " + form);
    auto pipe = stable_diffusion();
    const auto report = pipe->load_textual_inversion(source, options);
    EXPECT_EQ(report.embeddings, std::vector{word});
    EXPECT_EQ(report.dialect, form);
    EXPECT_THAT(report.unmatched, IsEmpty());
    EXPECT_THAT(report.notes, IsEmpty());
    EXPECT_THAT(report.text(), HasSubstr("words for prompts: " + word));
    EXPECT_TRUE(same_bits(draw(*pipe, "a " + word + " here"), wanted));
  }
  auto pipe = stable_diffusion();
  pipe->load_textual_inversion(one_vector);
  pipe->load_textual_inversion(a1111, {.token = "kwx"});
  EXPECT_TRUE(same_bits(draw(*pipe, "a <qzv> kwx_1 here"), wanted));
}

// A word has the vectors of "red apple", so that both prompts draw the same.
TEST_P(TextualInversions, DrawWhatTheirVectorsSay) {
  auto pipe = tiny::open(GetParam());
  const auto before = draw(*pipe, "a qzv here"), wanted = draw(*pipe, "a red apple here");
  const auto file = tiny::vectors_of(*pipe, "red apple");
  const auto number = pipe->lora_snapshot();
  const auto report = pipe->load_textual_inversion(file, {.token = "qzv"});
  EXPECT_THAT(report.unmatched, IsEmpty());
  EXPECT_THAT(report.notes, IsEmpty());
  EXPECT_EQ(pipe->lora_snapshot(), number + 1);
  EXPECT_TRUE(same_bits(draw(*pipe, "a qzv here"), wanted));
  for (const char* prompt : {"a (qzv) here", "a [qzv] (here:0.7) BREAK qzv"})
    EXPECT_TRUE(same_bits(draw(*pipe, prompt, PromptSyntax::attention),
                          draw(*pipe, replace_all(prompt, "qzv", "red apple"), PromptSyntax::attention)))
        << prompt;

  // LoRAs come and go beside words.
  auto lora = tiny::factors(*pipe, "ink", {"to_q", "query", "q_proj"}, 2);
  pipe->load_lora_weights(lora, {.adapter_name = "ink"});
  const auto with_both = draw(*pipe, "a qzv here");
  EXPECT_TRUE(same_bits(with_both, draw(*pipe, "a red apple here")));
  EXPECT_FALSE(same_bits(with_both, wanted));
  pipe->fuse_lora();
  EXPECT_TRUE(same_bits(draw(*pipe, "a qzv here"), draw(*pipe, "a red apple here")));
  pipe->unfuse_lora();
  pipe->disable_lora();
  EXPECT_TRUE(same_bits(draw(*pipe, "a qzv here"), wanted));
  pipe->unload_lora_weights();
  pipe->enable_lora();
  EXPECT_TRUE(same_bits(draw(*pipe, "a qzv here"), wanted));

  // A call keeps the words that it began with.
  CallOptions o;
  o.callback_on_step_end = [&](const StepEnd&) {
    pipe->unload_textual_inversion();
    return true;
  };
  EXPECT_TRUE(same_bits(tiny::draw_latents(*pipe, "a qzv here", o), wanted));
  EXPECT_TRUE(same_bits(draw(*pipe, "a qzv here"), before));
}

INSTANTIATE_TEST_SUITE_P(Pipelines, TextualInversions, testing::ValuesIn(tiny::names()), tiny::test_name);

TEST(TextualInversion, WordsStayInOneChunk) {
  auto pipe = stable_diffusion();
  pipe->load_textual_inversion(tiny::vectors_of(*pipe, "red apple on blue"), {.token = "qzv"});
  std::string fill = "owl";
  for (int i = 0; i < 27; ++i) fill += " owl";  // 28 of 30 tokens
  const auto attention = PromptSyntax::attention;
  const auto whole = draw(*pipe, fill + " BREAK red apple on blue", attention);
  EXPECT_TRUE(same_bits(draw(*pipe, fill + " qzv", attention), whole));
  EXPECT_FALSE(same_bits(draw(*pipe, fill + " red apple on blue", attention), whole));
}

TEST(TextualInversion, WordsAreUnloadedByName) {
  auto pipe = stable_diffusion();
  for (const char* word : {"qzv", "kwx"})
    pipe->load_textual_inversion(tiny::vectors_of(*pipe, word == std::string("qzv") ? "red apple" : "blue owl"),
                                 {.token = word});
  const auto red = draw(*pipe, "qzv"), blue = draw(*pipe, "kwx");
  EXPECT_THAT(error_of(ErrorKind::not_found,
                       [&] {
                         pipe->unload_textual_inversion({"qzv", "toy"});
                       }),
              HasSubstr("the word \"toy\" was not loaded by load_textual_inversion; these were: qzv, kwx"));
  EXPECT_TRUE(same_bits(draw(*pipe, "qzv"), red));
  pipe->unload_textual_inversion("qzv");
  EXPECT_FALSE(same_bits(draw(*pipe, "qzv"), red));
  EXPECT_TRUE(same_bits(draw(*pipe, "kwx"), blue));
  pipe->load_textual_inversion(tiny::vectors_of(*pipe, "blue owl"), {.token = "qzv"});
  EXPECT_TRUE(same_bits(draw(*pipe, "qzv"), blue));
  pipe->unload_textual_inversion();
  pipe->unload_textual_inversion();  // nothing is left, which is no error
  EXPECT_FALSE(same_bits(draw(*pipe, "kwx"), blue));
}

// A LoRA's file can bring words too.
TEST(TextualInversion, WordsOfALoraAreOnesOfTheirOwn) {
  auto pipe = stable_diffusion();
  auto with_word = [&](const std::string& text) {
    auto file = tiny::factors(*pipe, "words", {"to_q"}, 2);
    file.set("bundle_emb.qzv.clip_l", tiny::vectors_of(*pipe, text).at("clip_l"));
    return file;
  };
  pipe->load_lora_weights(with_word("red apple"), {.adapter_name = "one"});
  EXPECT_THAT(error_of(ErrorKind::conflict, [&] { pipe->load_textual_inversion(file_of("qzv")); }),
              HasSubstr("The adapter \"one\" has the same word with other vectors; delete that adapter first"));
  EXPECT_THAT(error_of(ErrorKind::not_found, [&] { pipe->unload_textual_inversion("qzv"); }),
              HasSubstr("\"qzv\" was not loaded by load_textual_inversion; no word was"));
  // The same vectors stay until both are gone.
  const auto wanted = draw(*pipe, "red apple qzv");
  pipe->load_textual_inversion(tiny::vectors_of(*pipe, "red apple"), {.token = "qzv"});
  EXPECT_TRUE(same_bits(draw(*pipe, "red apple qzv"), wanted));
  pipe->delete_adapters("one");
  EXPECT_TRUE(same_bits(draw(*pipe, "qzv"), draw(*pipe, "red apple")));
  EXPECT_THAT(error_of(ErrorKind::conflict, [&] { pipe->load_lora_weights(with_word("blue owl")); }),
              HasSubstr("the word \"qzv\" for prompts. load_textual_inversion added the same word with other vectors; "
                        "unload it first"));
  pipe->load_lora_weights(with_word("red apple"), {.adapter_name = "two"});
  pipe->unload_textual_inversion();
  EXPECT_TRUE(same_bits(draw(*pipe, "qzv"), draw(*pipe, "red apple")));
}

TEST(TextualInversion, FilesOfOtherEncodersAreToldOrRefused) {
  auto xl = tiny::open("sdxl"), refiner = tiny::open("sdxl-refiner"), sd = stable_diffusion();
  const auto file = tiny::vectors_of(*xl, "red apple");
  const auto refused = [&](DiffusionPipeline& pipe, const StateDict& tensors, LoadTextualInversionOptions options,
                           ErrorKind kind = ErrorKind::bad_shape) {
    options.token = "qzv";
    return error_of(kind, [&] { pipe.load_textual_inversion(tensors, options); });
  };
  EXPECT_THAT(refused(*sd, file, {}),
              HasSubstr("is for a model with two CLIP text encoders, such as SDXL (it has clip_g)"));
  EXPECT_THAT(refused(*sd, {{"clip_l", at::ones({1, 24})}}, {}), HasSubstr("text_encoder has vectors of width 16"));
  EXPECT_THAT(refused(*refiner, file_of("qzv"), {}), HasSubstr("this model has no text_encoder; nothing"));
  EXPECT_THAT(refused(*xl, file_of("qzv"), {.text_encoder = "unet"}, ErrorKind::usage),
              HasSubstr("text_encoder is \"unet\", which reads no text"));
  EXPECT_THAT(refused(*xl, file_of("qzv"), {.text_encoder = "text_encoder_3"}, ErrorKind::usage),
              HasSubstr("text_encoder_3"));
  EXPECT_THAT(refused(*xl, file, {.text_encoder = "text_encoder"}, ErrorKind::usage),
              HasSubstr("names its text encoders. Leave text_encoder out"));
  EXPECT_THAT(refused(*refiner, {{"clip_l", at::ones({1, 16})}}, {}), HasSubstr("no text encoder of this model"));

  // The refiner takes its part of a file.
  const auto report = refiner->load_textual_inversion(file, {.token = "qzv"});
  ASSERT_EQ(report.unmatched.size(), 1u);
  EXPECT_EQ(report.unmatched[0].key, "clip_l");
  EXPECT_TRUE(same_bits(draw(*refiner, "qzv"), draw(*refiner, "red apple")));
  // A file of one text encoder leaves the other one without the word.
  const auto first = xl->load_textual_inversion(StateDict{{"qzv", file.at("clip_l")}});
  EXPECT_THAT(first.notes,
              testing::ElementsAre("text_encoder_2 gets no vectors from the file, and reads \"qzv\" as text"));
  xl->load_textual_inversion(StateDict{{"kwx", file.at("clip_g")}}, {.text_encoder = "text_encoder_2"});
  EXPECT_FALSE(same_bits(draw(*xl, "qzv"), draw(*xl, "red apple")));
}

TEST(TextualInversion, WhatIsNoneIsRefusedByName) {
  auto pipe = stable_diffusion();
  const auto before = draw(*pipe, "a qzv toy");
  const auto number = pipe->lora_snapshot();
  auto refused = [&](ErrorKind kind, const LoraSource& source, const LoadTextualInversionOptions& options = {}) {
    return error_of(kind, [&] { pipe->load_textual_inversion(source, options); });
  };
  const auto two = StateDict{{"<a>", at::ones({1, 16})}, {"<b>", at::ones({1, 16})}};
  EXPECT_THAT(refused(ErrorKind::bad_key, two),
              HasSubstr("not a textual inversion. Such a file has the vectors of one"));
  EXPECT_THAT(refused(ErrorKind::bad_key, two), HasSubstr("This file has: <a>, <b>"));
  EXPECT_THAT(refused(ErrorKind::bad_key, StateDict{{"a", at::ones({1, 16}, at::kLong)}}), HasSubstr("has: a"));
  EXPECT_THAT(refused(ErrorKind::bad_key, StateDict()), HasSubstr("has: nothing"));
  EXPECT_THAT(refused(ErrorKind::bad_key, tiny::factors(*pipe, "ink", {"to_q"}, 2)), HasSubstr("lora_A.weight"));
  EXPECT_THAT(refused(ErrorKind::bad_shape, StateDict{{"qzv", at::ones({2, 17})}}),
              HasSubstr("text_encoder has vectors of width 16 for its words; nothing was loaded"));
  EXPECT_THAT(refused(ErrorKind::bad_shape, StateDict{{"emb_params", at::ones({2, 2, 16})}}, {.token = "qzv"}),
              HasSubstr("[2, 2, 16]"));
  EXPECT_THAT(refused(ErrorKind::bad_file, StateDict{{"qzv", at::full({1, 16}, NAN)}}), HasSubstr("NaN or infinity"));
  EXPECT_THAT(refused(ErrorKind::usage, file_of("emb_params")), HasSubstr("nothing names the word. Give a token"));
  EXPECT_THAT(refused(ErrorKind::usage, file_of(" ")), HasSubstr("not a word"));
  EXPECT_THAT(refused(ErrorKind::not_found, "nowhere.pt"), HasSubstr("nowhere.pt: there is no such file or folder"));
  EXPECT_THAT(refused(ErrorKind::not_found, tiny::folder("sd")), HasSubstr("no textual inversion file in this folder"));
  // Words that the tokenizer or the pipeline has.
  for (const char* word : {"apple", "Apple", "<|endoftext|>"})
    EXPECT_THAT(refused(ErrorKind::conflict, file_of(word)), HasSubstr("the tokenizer has this word as a token"));
  EXPECT_EQ(pipe->lora_snapshot(), number);
  EXPECT_TRUE(same_bits(draw(*pipe, "a qzv toy"), before));
  pipe->load_textual_inversion(file_of("qzv"));
  EXPECT_THAT(refused(ErrorKind::conflict, file_of("qzv")),
              HasSubstr("the word \"qzv\" is loaded already. Unload it with unload_textual_inversion first"));
  for (const char* word : {"QZV", "qzv_1"})
    EXPECT_THAT(refused(ErrorKind::conflict, file_of(word)), HasSubstr("equal to another word"));
}

}  // namespace lora
