// Checkpoints in float8, with and without scales: every weight is value × scale.
#include "checkpoints/float8.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "checkpoints/single_file.h"
#include "lora/denoisers.h"
#include "lora/text_encoders.h"
#include "models/reference_model.h"
#include "support/compare.h"

namespace lora {

namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

StateDict checkpoint(const std::string& kind) {
  StateDict file;
  const auto listed = reference::read("single_file/" + kind + ".json");
  for (const auto& item : listed["file"]) {
    auto name = item[0].get<std::string>();
    file.set(name, reference::weight(name, item[1].get<std::vector<int64_t>>()));
  }
  return file;
}

bool is_quantized(const std::string& name, const Tensor& t) { return name.ends_with(".weight") && t.dim() == 2; }

// A file in float8 as ComfyUI writes it, and the file of the numbers that it stands for, in float32.
struct Float8 {
  StateDict file, wanted;

  // `scale` is the end of the scales' names; "" for none.
  Float8(const StateDict& from, Dtype dtype, const std::string& scale) {
    for (const auto& [name, t] : from) {
      if (!is_quantized(name, t)) {
        file.set(name, t);
        wanted.set(name, t);
        continue;
      }
      const auto values = t.to(dtype);
      const auto factor = scale.empty() ? at::ones({}) : 0.5 + reference::noise(name, {}).abs().to(at::kFloat);
      file.set(name, values);
      wanted.set(name, values.to(at::kFloat) * factor);
      if (scale.empty()) continue;
      const auto layer = name.substr(0, name.size() - std::string("weight").size());
      file.set(layer + scale, factor);
      file.set(layer + (scale == "scale_weight" ? "scale_input" : "input_scale"), at::ones({}));
    }
    if (!scale.empty()) file.set("model.diffusion_model.scaled_fp8", at::empty({2}, at::kFloat8_e4m3fn));
  }
};

template <class M>
M open(const SingleFile& file, const char* component, Dtype dtype) {
  const auto& [config, tensors, label] = file.components.at(component);
  return M::from_state_dict(config, tensors, {.dtype = dtype}, label);
}

template <class M>
void expect_same(const SingleFile& got, const SingleFile& wanted, const char* component) {
  SCOPED_TRACE(component);
  for (auto dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
    const auto model = open<M>(got, component, dtype), plain = open<M>(wanted, component, dtype);
    for (const auto& [name, t] : plain.state_dict()) EXPECT_TRUE(same_bits(model.state_dict().at(name), t)) << name;
    EXPECT_THAT(model.notes(), ElementsAre(testing::AllOf(HasSubstr("float8_"), HasSubstr(to_string(dtype)))));
    EXPECT_THAT(plain.notes(), IsEmpty());
  }
}

}  // namespace

TEST(Float8, WeightsAreValueTimesScale) {
  for (auto dtype : {at::kFloat8_e4m3fn, at::kFloat8_e5m2})
    for (const char* scale : {"", "scale_weight", "weight_scale"})
      for (const std::string kind : {"sd1", "sd2", "sdxl", "sd3"}) {
        SCOPED_TRACE(kind + " " + scale + " " + to_string(dtype));
        const Float8 made(checkpoint(kind), dtype, scale);
        const auto got = split_single_file(made.file, "file"), wanted = split_single_file(made.wanted, "file");
        EXPECT_THAT(got.notes, IsEmpty());
        if (kind == "sd3") {
          expect_same<SD3Transformer2DModel>(got, wanted, "transformer");
          expect_same<T5EncoderModel>(got, wanted, "text_encoder_3");
        } else {
          expect_same<UNet2DConditionModel>(got, wanted, "unet");
        }
        expect_same<CLIPTextModel>(got, wanted, "text_encoder");
      }
}

TEST(Float8, AScaleForEachRowIsRead) {
  const auto wanted = split_single_file(checkpoint("sd1"), "file");
  const auto& [config, tensors, label] = wanted.components.at("text_encoder");
  const std::string layer = "text_model.encoder.layers.0.mlp.fc1.";
  auto file = tensors;
  const auto values = file.at(layer + "weight").to(at::kFloat8_e4m3fn);
  const auto scale = 1 + reference::noise("rows", {values.size(0), 1}).abs().to(at::kFloat);
  file.set(layer + "weight", values);
  file.set(layer + "scale_weight", scale);
  const auto model = CLIPTextModel::from_state_dict(config, file, {.dtype = at::kFloat}, label);
  EXPECT_TRUE(same_bits(model.state_dict().at(layer + "weight"), values.to(at::kFloat) * scale));
  EXPECT_THAT(model.notes(), ElementsAre(HasSubstr("1 tensor in float8_e4m3fn with scales, converted to float32")));

  auto refused = [&](const char* name, const Tensor& t, ErrorKind kind) {
    auto wrong = file;
    wrong.set(layer + name, t);
    return error_of(kind, [&] { CLIPTextModel::from_state_dict(config, wrong, {}, "file"); });
  };
  EXPECT_THAT(refused("scale_weight", at::ones({3}), ErrorKind::bad_shape),
              HasSubstr("file: " + layer + "scale_weight is Float [3]; a scale must be one number"));
  EXPECT_THAT(refused("scale_weight", at::ones({}, at::kLong), ErrorKind::bad_shape), HasSubstr("is Long []"));
  const std::string form = R"({"format": "nvfp4"})";
  auto bytes = at::empty({int64_t(form.size())}, at::kByte);
  std::copy(form.begin(), form.end(), bytes.data_ptr<uint8_t>());
  EXPECT_THAT(refused("comfy_quant", bytes, ErrorKind::unsupported), HasSubstr("nvfp4"));
  EXPECT_THAT(refused("weight", at::ones(values.sizes(), at::kChar), ErrorKind::unsupported), HasSubstr("int8"));
}

TEST(Float8, NamesOfScalesAreThoseOfTheirWeights) {
  EXPECT_EQ(weight_of_scale("a.b.scale_weight"), "a.b.weight");
  EXPECT_EQ(weight_of_scale("a.b.weight_scale"), "a.b.weight");
  EXPECT_EQ(weight_of_scale("a.b.weight"), "");
  EXPECT_EQ(scale_of_weight("c.weight", "a.b.weight_scale"), "c.weight_scale");
  for (const char* mark : {"scaled_fp8", "model.diffusion_model.scaled_fp8", "a.scale_input", "a.input_scale"})
    EXPECT_TRUE(is_float8_mark(mark)) << mark;
  EXPECT_FALSE(is_float8_mark("a.scale_weight"));
}

}  // namespace lora
