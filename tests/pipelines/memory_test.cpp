// PipelineOptions::low_memory, what a call needs of memory, and the VAE in slices and tiles.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <unistd.h>

#include <limits>
#include <thread>

#include "io/mapped_file.h"
#include "nn/weights.h"
#include "pipelines/tiny_pipelines.h"

namespace lora {

namespace {

using testing::HasSubstr;

constexpr double kMuch = std::numeric_limits<double>::infinity();

std::unique_ptr<DiffusionPipeline> opened(const std::string& name, Dtype dtype, bool low_memory) {
  return DiffusionPipeline::from_pretrained(tiny::folder(name), {.dtype = dtype, .low_memory = low_memory});
}

bool is_away(const Tensor& t) { return t.numel() > 0 && t.const_data_ptr() == nullptr; }

size_t count_away(const DiffusionPipeline& pipe) {
  auto components = pipe.models();
  components.push_back(pipe.autoencoder());
  size_t count = 0;
  for (const auto& c : components)
    for (const auto& [name, t] : parts_of(*c.model).tensors) count += is_away(t);
  return count;
}

std::vector<uint8_t> drawn(const DiffusionPipeline& pipe, CallOptions options = {}) {
  options.height = options.width = 16;
  options.num_inference_steps = 2;
  options.seed = {1};
  std::vector<uint8_t> pixels;
  for (const auto& image : pipe("red apple", options))
    pixels.insert(pixels.end(), image.pixels.begin(), image.pixels.end());
  return pixels;
}

int largest_difference(const std::vector<uint8_t>& a, const std::vector<uint8_t>& b) {
  if (a.size() != b.size()) return 256;
  int largest = 0;
  for (size_t i = 0; i < a.size(); ++i) largest = std::max(largest, std::abs(int(a[i]) - int(b[i])));
  return largest;
}

// What a model that needs a picture is given.
CallOptions with_picture(const std::string& name) {
  CallOptions options;
  if (!name.ends_with("inpaint") && !name.ends_with("refiner")) return options;
  options.image = tiny::picture("memory", {16, 16});
  options.strength = 1;
  if (name.ends_with("inpaint")) options.mask_image = tiny::picture("mask", {16, 16});
  return options;
}

}  // namespace

// With active, fused and unfused adapters, in the dtype of the file and converted from it.
TEST(LowMemory, DrawsTheSame) {
  for (const auto& name : tiny::names())
    for (auto dtype : {at::kFloat, at::kBFloat16}) {
      SCOPED_TRACE(name + " " + to_string(dtype));
      const auto usual = opened(name, dtype, false), low = opened(name, dtype, true);
      const auto options = with_picture(name);
      const bool converts = dtype != at::kFloat;
      EXPECT_EQ(count_away(*usual), 0u);
      EXPECT_EQ(count_away(*low) > 0, converts);
      auto expect_same = [&](const char* when) {
        const auto away = count_away(*low);
        EXPECT_EQ(drawn(*low, options), drawn(*usual, options)) << when;
        EXPECT_EQ(count_away(*low), away) << when;
      };
      expect_same("the models");
      const auto base = drawn(*usual, options);
      for (auto* pipe : {usual.get(), low.get()}) {
        pipe->load_lora_weights(tiny::factors(*pipe, "a", {"to_q", "query", "fc1", "q_proj"}, 2),
                                {.adapter_name = "a"});
        pipe->load_lora_weights(tiny::factors(*pipe, "b", {"to_k", "key", "fc2"}, 2), {.adapter_name = "b"});
        pipe->set_adapters({"a", "b"}, {0.8, 0.6});
      }
      EXPECT_NE(drawn(*usual, options), base);
      expect_same("two active adapters");
      const auto before = count_away(*low);
      for (auto* pipe : {usual.get(), low.get()}) pipe->fuse_lora({.adapter_names = {"a"}});
      EXPECT_EQ(count_away(*low) < before, converts) << "fused weights stay";
      expect_same("one of them fused");
      for (auto* pipe : {usual.get(), low.get()}) pipe->fuse_lora();
      expect_same("both fused");
      for (auto* pipe : {usual.get(), low.get()}) pipe->unfuse_lora();
      expect_same("none fused");
      for (auto* pipe : {usual.get(), low.get()}) pipe->unload_lora_weights();
      EXPECT_EQ(drawn(*low, options), base);
    }
}

// Kinds that look at the weights, while these are away.
TEST(LowMemory, AdaptersSeeTheWeights) {
  const auto usual = opened("sdxl", at::kBFloat16, false), low = opened("sdxl", at::kBFloat16, true);
  StateDict dora = tiny::factors(*usual, "d", {"attn1.to_q"}, 2), dense;
  for (const auto& site : parts_of(*usual->models().front().model).sites) {
    const auto path = "unet." + site->path;
    if (site->path.ends_with("attn1.to_q"))
      dora.set(path + ".lora_magnitude_vector",
               1 + reference::noise(path, {site->weight.size(0)}).to(at::kFloat).abs());
    if (site->path.ends_with("attn2.to_k"))
      dense.set(path + ".diff", 0.3 * reference::weight("diff." + path, site->weight.sizes()));
  }
  for (const auto* file : {&dora, &dense}) {
    for (auto* pipe : {usual.get(), low.get()}) {
      pipe->unload_lora_weights();
      pipe->load_lora_weights(*file);
    }
    EXPECT_EQ(drawn(*low), drawn(*usual));
    CallOptions half;
    half.cross_attention_kwargs.scale = 0.5;
    EXPECT_EQ(drawn(*low, half), drawn(*usual, half));
    EXPECT_NE(drawn(*low, half), drawn(*low));
    const auto measured = low->measure_fuse(), wanted = usual->measure_fuse();
    EXPECT_EQ(measured.change, wanted.change);
    EXPECT_EQ(measured.lost, wanted.lost);
  }
}

TEST(LowMemory, EndsWhereTheTensorsAreAskedFor) {
  const auto usual = opened("sd", at::kBFloat16, false), low = opened("sd", at::kBFloat16, true);
  const auto before = drawn(*low);
  const auto& tensors = low->models().front().model->state_dict();
  for (int i = 0; i < 2; ++i) {
    for (const auto& [name, t] : usual->models().front().model->state_dict())
      EXPECT_TRUE(same_bits(tensors.at(name), t)) << name;
    EXPECT_EQ(drawn(*low), before);
  }
  EXPECT_GT(count_away(*low), 0u) << "of the other models";
  EXPECT_EQ(low->models()[1].model->num_parameters(), usual->models()[1].model->num_parameters());
  TemporaryFolder folder;
  low->save_pretrained(folder / "saved");
  EXPECT_GT(count_away(*low), 0u);
  EXPECT_EQ(drawn(*DiffusionPipeline::from_pretrained(folder / "saved", {.dtype = at::kBFloat16})), before);
}

TEST(LowMemory, ServesSeveralThreads) {
  const auto low = opened("sdxl", at::kBFloat16, true);
  const auto wanted = drawn(*low);
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i)
    threads.emplace_back([&] {
      for (int n = 0; n < 3; ++n) EXPECT_EQ(drawn(*low), wanted);
    });
  threads.emplace_back([&] {
    for (int n = 0; n < 5; ++n) {
      low->load_lora_weights(tiny::factors(*low, "t", {"to_out.0"}, 2), {.adapter_name = "t"});
      low->set_adapters({"t"}, {0.0});
      low->fuse_lora();
      low->unfuse_lora();
      low->delete_adapters("t");
    }
  });
  threads[3].join();
  for (int i = 0; i < 3; ++i) threads[size_t(i)].join();
  EXPECT_GT(count_away(*low), 0u);
}

// A VAE that overflows in float16 works again in float32, from weights that are away.
TEST(LowMemory, AVaeWorksAgainInFloat32) {
  auto pixels_of = [](bool low_memory) {
    const auto pipe = opened("sd", at::kHalf, low_memory);
    return pipe->decode_latents(reference::noise("overflow", {1, 4, 8, 8}).to(at::kHalf) * 6e4).front().pixels;
  };
  EXPECT_EQ(pixels_of(true), pixels_of(false));
}

TEST(CleanPages, LeaveAndWrittenOnesStay) {
  TemporaryFolder folder;
  const auto numbers = at::arange(1 << 18, at::kFloat);
  save_safetensors(StateDict{{"w", numbers}}, folder / "a.safetensors");
  const auto w = load_state_dict(folder / "a.safetensors").at("w");
  w[1000] = -1.0;
  EXPECT_EQ(w.sum().item<float>(), w.clone().sum().item<float>());  // reads all pages
  auto in_memory = [&](int64_t number) {
    uint64_t entry = 0;
    const int pagemap = ::open("/proc/self/pagemap", O_RDONLY);
    const auto page =
        reinterpret_cast<uintptr_t>(w.const_data_ptr<float>() + number) / uintptr_t(::sysconf(_SC_PAGESIZE));
    EXPECT_EQ(::pread(pagemap, &entry, sizeof(entry), off_t(page * sizeof(entry))), ssize_t(sizeof(entry)));
    ::close(pagemap);
    return bool(entry >> 63);
  };
  ASSERT_TRUE(in_memory(1000) && in_memory(100000));
  CleanPages().release(w);
  EXPECT_TRUE(in_memory(1000));
  EXPECT_FALSE(in_memory(100000));
  auto wanted = numbers.clone();
  wanted[1000] = -1.0;
  EXPECT_TRUE(at::equal(w, wanted));
  const auto own = at::ones(1 << 16);
  CleanPages().release(own);
  CleanPages().release(at::empty({0}));
  EXPECT_TRUE(at::equal(own, at::ones(1 << 16)));
}

// ---- What a call needs ----------------------------------------------------------------------------------------------

TEST(MemoryNeeded, FollowsFromTheConfigsAndTheCall) {
  const auto pipe = opened("sd", at::kFloat, false);
  double unet = 0, encoder = 0, vae = 0;
  for (const auto& [name, t] : pipe->models()[0].model->state_dict()) unet += double(t.nbytes());
  for (const auto& [name, t] : pipe->models()[1].model->state_dict()) encoder += double(t.nbytes());
  for (const auto& [name, t] : pipe->autoencoder().model->state_dict()) vae += double(t.nbytes());
  // 64 × 48 pixels are 32 × 24 latents; the first block of the UNet has 16 channels, the widest map of the VAE 16.
  CallOptions call{.height = 64, .width = 48};
  const auto one = pipe->memory_needed(call, kMuch);
  EXPECT_EQ(one.weights, unet + encoder + vae);
  EXPECT_EQ(one.kept, 0) << "the weights are mapped";
  EXPECT_EQ(one.encoding, encoder);
  EXPECT_EQ(one.denoising, unet + 32 * 24 * 2 * 26 * 16 * 4);
  EXPECT_EQ(one.decoding, vae + 64 * 48 * (3.5 * 16 + 3) * 4);
  EXPECT_EQ(one.peak(), std::max(one.denoising, one.decoding));
  EXPECT_EQ(one.more(), one.peak());
  call.guidance_scale = 1;
  EXPECT_EQ(pipe->memory_needed(call, kMuch).denoising, unet + 32 * 24 * 26 * 16 * 4);
  call.num_images_per_prompt = 3;
  EXPECT_EQ(pipe->memory_needed(call, kMuch).denoising, unet + 3 * 32 * 24 * 26 * 16 * 4);
  EXPECT_EQ(pipe->memory_needed(call, kMuch).decoding, vae + 3 * 64 * 48 * (3.5 * 16 + 3) * 4);
  EXPECT_EQ(pipe->memory_needed(call, 0).decoding, vae + (32 * 32 * 3.5 * 16 + 3 * 64 * 48 * 3) * 4) << "in tiles";
  pipe->disable_vae_tiling();
  EXPECT_EQ(pipe->memory_needed(call, 0).decoding, vae + (3.5 * 16 + 3 * 3) * 64 * 48 * 4) << "one by one";
  pipe->disable_vae_slicing();
  EXPECT_EQ(pipe->memory_needed(call, 0).decoding, vae + 3 * 64 * 48 * (3.5 * 16 + 3) * 4);
  // Without a size: the model's own. With a picture: the picture's.
  EXPECT_EQ(pipe->memory_needed({}, kMuch).denoising, unet + 16 * 16 * 2 * 26 * 16 * 4);
  EXPECT_EQ(pipe->memory_needed({.image = tiny::picture("size", {48, 64})}, kMuch).denoising, one.denoising);
}

TEST(MemoryNeeded, CountsConvertedWeightsAllTheTime) {
  for (const auto& name : tiny::names()) {
    SCOPED_TRACE(name);
    const auto usual = opened(name, at::kBFloat16, false)->memory_needed({}, kMuch);
    const auto low = opened(name, at::kBFloat16, true)->memory_needed({}, kMuch);
    EXPECT_GT(usual.kept, 0.8 * usual.weights) << "SDXL's VAE keeps the dtype of its file";
    EXPECT_EQ(usual.weights, low.weights);
    EXPECT_EQ(low.kept, 0);
    EXPECT_LT(low.peak(), usual.peak());
    EXPECT_LT(low.encoding, low.weights);
    EXPECT_LE(usual.more(), low.more());
    EXPECT_GT(usual.more(), 0);
  }
}

TEST(MemoryNeeded, FreeMemoryIsKnown) {
  EXPECT_GT(free_memory(), 1e6);
  EXPECT_LT(free_memory(), 1e15);
}

// ---- The VAE --------------------------------------------------------------------------------------------------------

TEST(VaeOfAPipeline, WorksInTilesAndSlices) {
  for (const auto& name : tiny::names()) {
    SCOPED_TRACE(name);
    const auto pipe = tiny::open(name);
    auto options = with_picture(name);
    options.num_images_per_prompt = 2;
    const auto whole = drawn(*pipe, options);
    pipe->enable_vae_slicing();
    EXPECT_LE(largest_difference(drawn(*pipe, options), whole), 1) << "batches may round in another way";
    pipe->disable_vae_slicing();
    if (name.starts_with("amused")) {
      EXPECT_THAT(error_of(ErrorKind::usage, [&] { pipe->enable_vae_tiling(); }),
                  HasSubstr("AmusedPipeline does not take enable_vae_tiling"));
      pipe->disable_vae_tiling();
      EXPECT_EQ(drawn(*pipe, options), whole);
      continue;
    }
    pipe->enable_vae_tiling();
    EXPECT_EQ(drawn(*pipe, options), whole) << "it is smaller than a tile";
    pipe->enable_vae_tiling({.tile_sample_min_size = 8});
    const auto in_tiles = drawn(*pipe, options);
    EXPECT_NE(in_tiles, whole);
    pipe->enable_vae_slicing();
    EXPECT_LE(largest_difference(drawn(*pipe, options), in_tiles), 1);
    pipe->disable_vae_slicing();
    pipe->disable_vae_tiling();
    EXPECT_EQ(drawn(*pipe, options), whole);
  }
}

}  // namespace lora
