// A kind that nobody published, from this file alone: rows of the weight are shifted by one number each. All of the
// library knows it then: files are read and written, models load it, it is active and fused.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "files/change.h"
#include "kinds/kinds.h"
#include "lora/files.h"
#include "lora/pipelines.h"
#include "support/compare.h"
#include "support/folder.h"
#include "support/layers.h"

namespace lora {

namespace {

constexpr std::string_view kShift = "row_shift";
constexpr TensorName kNames[] = {{kShift, ".row_shift", ""}};

class ShiftDelta final : public Delta {
 public:
  ShiftDelta(Tensor shift, Strength strength, std::vector<int64_t> shape)
      : shift_(std::move(shift)), strength_(strength), shape_(std::move(shape)) {}

  const char* algorithm() const override { return "row_shift"; }
  int64_t rank() const override { return 0; }
  double alpha() const override { return strength_.alpha; }
  double scale() const override { return strength_.scale; }
  Device device() const override { return shift_.device(); }
  bool is_dense() const override { return true; }
  Effect effect(double strength, const Tensor&) const override {
    auto rows = shift_.to(at::kFloat).reshape({-1, 1}) * (strength * strength_.scale);
    return {.weight = rows.expand({shape_[0], c10::multiply_integers(shape_) / shape_[0]}).reshape(shape_)};
  }
  LayerTensors tensors() const override { return {{std::string(kShift), shift_}}; }
  std::shared_ptr<const Delta> to(Device device, Dtype dtype) const override {
    return std::make_shared<ShiftDelta>(shift_.to(device, dtype), strength_, shape_);
  }

 private:
  Tensor shift_;
  Strength strength_;
  std::vector<int64_t> shape_;
};

class Shift final : public Kind {
 public:
  std::span<const TensorName> names() const override { return kNames; }
  std::string_view name() const override { return "row shift"; }
  std::string missing(const LayerTensors&) const override { return ""; }
  WeightSize size(const LayerTensors& t) const override { return {get(t, kShift).numel(), 0, {}}; }
  int row_dim(const LayerTensors&, std::string_view, const std::string&) const override { return 0; }
  Factors factors(const LayerTensors&) const override { return Factors::never; }
  std::shared_ptr<const Delta> make(const LoraLayer& layer, const Site& site, const MakeOptions& o) const override {
    auto shift = get(layer.tensors, kShift);
    if (shift.numel() != site.weight.size(0)) throw Error(ErrorKind::bad_shape, o.label + ": too few shifts");
    return ShiftDelta(shift, strength_of(layer, 0), site.weight.sizes().vec())
        .to(site.weight.device(), site.weight.scalar_type());
  }
};

const Shift kShiftKind;
const bool kAdded = (add_kind(kShiftKind), true);

std::string tiny() { return std::string(LORA_SOURCE_DIR) + "/models/tiny"; }

}  // namespace

TEST(MadeUpKind, IsKnownEverywhere) {
  ASSERT_TRUE(kAdded);
  TemporaryFolder folder;
  auto pipe = StableDiffusionPipeline::from_pretrained(tiny(), {.dtype = at::kFloat});
  const std::string path = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q";
  const auto rows = pipe.unet.state_dict().at(path + ".weight").size(0);
  at::manual_seed(4);
  StateDict file{{"lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q.row_shift", at::randn({rows})}};
  save_safetensors(file, folder / "shift.safetensors");

  auto read = read_lora(folder / "shift.safetensors");
  ASSERT_EQ(read.layers.size(), 1u);
  EXPECT_EQ(read.layers[0].kind, "row shift");
  EXPECT_EQ(inspect_lora(folder / "shift.safetensors").algorithm, "row shift");

  auto latents = [&] {
    return pipe.generate_latents("rocket", {.num_inference_steps = 1, .guidance_scale = 1, .seed = {1}});
  };
  auto base = latents();
  auto report = pipe.load_lora_weights(folder / "shift.safetensors", {.adapter_name = "shift"});
  EXPECT_EQ(report.matched_layers(), 1u);
  auto active = latents();
  EXPECT_FALSE(at::equal(active, base));
  pipe.fuse_lora();
  expect_close(latents(), active, 1e-5);
  pipe.unfuse_lora();
  EXPECT_TRUE(at::equal(latents(), active));

  convert_lora(folder / "shift.safetensors", folder / "again.safetensors", {.to = "kohya"});
  auto again = load_state_dict(folder / "again.safetensors");
  EXPECT_TRUE(at::equal(again.begin()->second, file.begin()->second));
  EXPECT_NE(error_of(ErrorKind::unsupported,
                     [&] { convert_lora(folder / "shift.safetensors", folder / "d.safetensors", {.to = "diffusers"}); })
                .find("row shift"),
            std::string::npos);
}

}  // namespace lora
