// Ids beyond a text encoder's vocabulary, against transformers (tools/reference/make_embeddings.py).
#include <gtest/gtest.h>

#include "lora/text_encoders.h"
#include "models/parts_of.h"
#include "models/reference_model.h"
#include "nn/run.h"
#include "support/compare.h"

namespace lora {

namespace {

constexpr double kClose = 1e-6;  // of the largest value

const StateDict& expected() {
  static const auto tensors = load_state_dict(test_data() / "embeddings" / "clip.safetensors");
  return tensors;
}

CLIPTextModel load(const std::string& name) {
  return CLIPTextModel::from_pretrained(reference::data("clip/" + name), {.dtype = at::kFloat});
}

std::shared_ptr<const Run> run_with(const Model& model, const Tensor& rows) {
  auto run = std::make_shared<Run>();
  run->at.resize(parts_of(model).sites.size());
  run->added = std::make_shared<const AddedRows>(AddedRows{rows, {{"word", {64, 65, 66, 67}}}});
  return run;
}

}  // namespace

TEST(AddedRows, AreReadAsTransformersReadsThem) {
  for (std::string name : {"sd1", "projection"}) {
    SCOPED_TRACE(name);
    auto model = load(name);
    const RunScope run(parts_of(model), run_with(model, expected().at("rows")));
    auto out = model(expected().at("ids"));
    expect_close(out.last_hidden_state, expected().at(name + ".last_hidden_state"), kClose);
    if (name == "projection") expect_close(out.text_embeds, expected().at("projection.text_embeds"), kClose);
  }
}

// Early configs name no end token; transformers then takes the largest id for it, an added one too.
TEST(AddedRows, AreNoEndTokens) {
  auto model = load("sd1");
  const RunScope run(parts_of(model), run_with(model, expected().at("rows")));
  auto out = model(expected().at("ids"));
  EXPECT_TRUE(at::equal(out.pooler_output[0], out.last_hidden_state[0][6]));
  EXPECT_TRUE(at::equal(out.pooler_output[1], out.last_hidden_state[1][11]));
}

TEST(AddedRows, AreThoseOfTheRun) {
  auto model = load("sd1");
  const auto& ids = expected().at("ids");
  auto message = error_of(ErrorKind::usage, [&] { model(ids); });
  EXPECT_NE(message.find("0 to 63"), std::string::npos) << message;
  EXPECT_TRUE(model.added_words().empty());

  RunScope run(parts_of(model), run_with(model, expected().at("rows")));
  EXPECT_EQ(model.added_words().size(), 1);
  EXPECT_NO_THROW(model(ids));
  error_of(ErrorKind::usage, [&] { model(ids + 4); });
}

}  // namespace lora
