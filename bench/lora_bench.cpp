// The work that bench/reference.py times, under the same names, a line of JSON each: lora_bench CACHE [--threads N]
// [--runs N] [--only sd15|sdxl|files].
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <fstream>

#include "lora/lora.h"

using namespace lora;
namespace fs = std::filesystem;

namespace {

// In MiB, from the kernel's account of this process.
double status(const std::string& field) {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with(field + ":")) return std::stod(line.substr(field.size() + 1)) / 1024;
  return 0;
}

void reset_peak() { std::ofstream("/proc/self/clear_refs") << "5"; }

struct Timing {
  int runs = 3, warm = 0, loops = 1;
};

template <class Action, class Before, class After>
void measure(const std::string& name, Timing timing, Action&& action, Before&& before, After&& after) {
  double best = INFINITY, peak = 0, grown = 0;
  for (int i = 0; i < timing.warm + timing.runs; ++i) {
    before();
    reset_peak();
    double resident = status("VmRSS");
    auto start = std::chrono::steady_clock::now();
    for (int k = 0; k < timing.loops; ++k) action();
    double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / timing.loops;
    if (i >= timing.warm) {
      best = std::min(best, seconds);
      peak = std::max(peak, status("VmHWM"));
      grown = std::max(grown, status("VmHWM") - resident);
    }
    after();
  }
  fmt::print("{{\"name\": \"{}\", \"seconds\": {:.6f}, \"unit\": \"s\", \"peak_mb\": {:.0f}, \"grown_mb\": {:.0f}}}\n",
             name, best, peak, grown);
  std::fflush(stdout);
}

void nothing() {}

std::string content(const fs::path& file) {
  std::string bytes(fs::file_size(file), '\0');
  std::ifstream(file, std::ios::binary).read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  return bytes;
}

// Syncs what is open, then closes it.
void sync(int file) {
  if (file < 0 || ::fsync(file) != 0 || ::close(file) != 0) throw std::runtime_error("a file cannot be written");
}

// As a LoRA file is written: to a sibling, synced, renamed, and the folder synced.
void write_synced(const fs::path& file, const std::string& bytes) {
  auto sibling = file.string() + ".tmp";
  int out = ::open(sibling.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
  size_t at = 0;
  for (ssize_t n = 1; n > 0 && at < bytes.size(); at += size_t(std::max<ssize_t>(n, 0)))
    n = ::write(out, bytes.data() + at, bytes.size() - at);
  sync(at == bytes.size() ? out : -1);
  fs::rename(sibling, file);
  sync(::open(file.parent_path().c_str(), O_RDONLY | O_DIRECTORY));
}

struct Bench {
  fs::path cache;
  int runs;

  StableDiffusionPipeline open(Dtype dtype) const {
    auto exact = cache / ("sd15-" + to_string(dtype));
    return StableDiffusionPipeline::from_pretrained(fs::exists(exact) ? exact : cache / "sd15-float16",
                                                    {.dtype = dtype});
  }

  void load(StableDiffusionPipeline& pipe, int i, const std::string& kind = "kohya") const {
    pipe.load_lora_weights(cache / "loras" / fmt::format("{}-{}.safetensors", kind, i % 3),
                           {.adapter_name = fmt::format("a{}", i)});
  }

  void opening() const {
    std::optional<StableDiffusionPipeline> kept;
    measure(
        "open.float16", {.runs = runs, .warm = 1}, [&] { kept.emplace(open(at::kHalf)); }, nothing,
        [&] { kept.reset(); });
    // The floor: the same three files mapped and their headers read.
    std::vector<StateDict> files;
    measure(
        "map.float16", {.runs = runs, .warm = 1},
        [&] {
          for (auto name : {"unet/diffusion_pytorch_model", "text_encoder/model", "vae/diffusion_pytorch_model"})
            files.push_back(load_state_dict(cache / "sd15-float16" / (std::string(name) + ".safetensors")));
        },
        nothing, [&] { files.clear(); });
  }

  void loading(StableDiffusionPipeline& pipe) const {
    for (const std::string kind : {"kohya", "peft"}) {
      auto unload = [&] { pipe.unload_lora_weights(); };
      measure(
          "load." + kind + ".first", {.runs = runs}, [&] { load(pipe, 0, kind); }, nothing, unload);
      measure(
          "load." + kind + ".second", {.runs = runs}, [&] { load(pipe, 1, kind); }, [&] { load(pipe, 0, kind); },
          unload);
    }
    load(pipe, 0), load(pipe, 1);
    measure(
        "set_adapters", {.runs = runs, .warm = 1, .loops = 5},
        [&] {
          pipe.set_adapters({"a0", "a1"}, {0.7, 0.5});
        },
        nothing, nothing);
    int turn = 0;
    measure(
        "switch", {.runs = runs, .warm = 1, .loops = 6}, [&] { pipe.set_adapters({(turn ^= 1) ? "a1" : "a0"}); },
        nothing, nothing);
    pipe.unload_lora_weights();
    measure(
        "unload", {.runs = runs}, [&] { pipe.unload_lora_weights(); }, [&] { load(pipe, 0); }, nothing);
  }

  void stepping(StableDiffusionPipeline& pipe) const {
    c10::InferenceMode inference;
    auto sample = at::randn({2, 4, 32, 32}), states = at::randn({2, 77, 768}), timestep = at::tensor(500);
    auto step = [&](const std::string& name) {
      measure(
          name, {.runs = runs, .warm = 1}, [&] { pipe.unet(sample, timestep, states); }, nothing, nothing);
    };
    for (auto [name, adapters] : {std::pair{"step.base", 0}, {"step.one", 1}, {"step.three", 3}, {"step.eight", 8}}) {
      std::vector<std::string> names;
      for (int i = 0; i < adapters; ++i) load(pipe, i), names.push_back(fmt::format("a{}", i));
      pipe.set_adapters(names, {0.5});
      step(name);
      pipe.unload_lora_weights();
    }
    load(pipe, 0);
    pipe.fuse_lora();
    step("step.fused");
    pipe.unfuse_lora();
    pipe.unload_lora_weights();
  }

  // Four images in one batch: without adapters, and each with one of its own.
  void batch(StableDiffusionPipeline& pipe) const {
    CallOptions options{.height = 256, .width = 256, .num_inference_steps = 1, .guidance_scale = 1};
    options.num_images_per_prompt = 4;
    options.prompt_embeds = at::randn({1, 77, 768});
    options.seed = {0};
    measure(
        "batch.base", {.runs = runs, .warm = 1}, [&] { pipe.generate_latents({}, options); }, nothing, nothing);
    for (int i = 0; i < 4; ++i) {
      load(pipe, i);
      options.adapters_per_image.push_back({{.name = fmt::format("a{}", i)}});
    }
    pipe.set_adapters({});
    measure(
        "batch.four", {.runs = runs, .warm = 1}, [&] { pipe.generate_latents({}, options); }, nothing, nothing);
    pipe.unload_lora_weights();
  }

  // What calls cost with many adapters loaded, and what an adapter takes of memory over its file's size.
  void many(StableDiffusionPipeline& pipe) const {
    auto before = status("VmRSS");
    auto file = double(fs::file_size(cache / "loras" / "kohya-0.safetensors")) / (1 << 20);
    int loaded = 0;
    for (int count : {1, 10, 50, 200}) {
      for (; loaded < count; ++loaded) load(pipe, loaded);
      auto name = [&](const char* what) { return fmt::format("{}.with{}", what, count); };
      measure(
          name("load"), {.runs = runs}, [&] { load(pipe, 999); }, nothing, [&] { pipe.delete_adapters({"a999"}); });
      int turn = 0;
      measure(
          name("switch"), {.runs = runs, .warm = 1, .loops = 6},
          [&] { pipe.set_adapters({(turn ^= 1) ? "a0" : fmt::format("a{}", count - 1)}); }, nothing, nothing);
      pipe.set_adapters({"a0", fmt::format("a{}", count - 1)}, {0.5});
      measure(
          name("weights"), {.runs = runs, .warm = 1, .loops = 6},
          [&] {
            pipe.set_adapters({"a0", fmt::format("a{}", count - 1)}, {0.1 * (1 + turn++ % 9), 0.4});
          },
          nothing, nothing);
      fmt::print("{{\"name\": \"memory.with{}\", \"seconds\": {:.4f}, \"unit\": \"file sizes an adapter\"}}\n", count,
                 (status("VmRSS") - before) / loaded / file);
    }
    pipe.unload_lora_weights();
    fmt::print("{{\"name\": \"memory.unloaded\", \"seconds\": {:.4f}, \"unit\": \"of before\"}}\n",
               status("VmRSS") / before);
  }

  void fusing(StableDiffusionPipeline& pipe, const std::string& dtype) const {
    load(pipe, 0);
    measure(
        "fuse." + dtype, {.runs = runs, .warm = 1}, [&] { pipe.fuse_lora(); }, nothing, [&] { pipe.unfuse_lora(); });
    measure(
        "unfuse." + dtype, {.runs = runs}, [&] { pipe.unfuse_lora(); }, [&] { pipe.fuse_lora(); }, nothing);
    pipe.unload_lora_weights();
  }

  // One large LoRA file for SDXL, without a model: against reading its bytes, and against a synced copy of it.
  void files() const {
    auto file = cache / "loras" / "sdxl-kohya.safetensors", out = cache / "loras" / "out.safetensors";
    measure(
        "file.read", {.runs = runs, .warm = 1}, [&] { content(file); }, nothing, nothing);
    measure(
        "file.parse", {.runs = runs, .warm = 1}, [&] { read_lora(file); }, nothing, nothing);
    measure(
        "file.inspect", {.runs = runs, .warm = 1}, [&] { inspect_lora(file); }, nothing, nothing);
    measure(
        "file.copy", {.runs = runs, .warm = 1}, [&] { write_synced(out, content(file)); }, nothing, nothing);
    measure(
        "file.convert", {.runs = runs, .warm = 1}, [&] { convert_lora(file, out, {.to = "diffusers"}); }, nothing,
        nothing);
    fs::remove(out);
  }

  // SDXL's 2.6 billion parameters in bfloat16.
  void sdxl() const {
    auto open_xl = [&] {
      return StableDiffusionXLPipeline::from_pretrained(cache / "sdxl-bfloat16", {.dtype = at::kBFloat16});
    };
    std::optional<StableDiffusionXLPipeline> kept;
    measure(
        "xl.open", {.runs = runs, .warm = 1}, [&] { kept.emplace(open_xl()); }, nothing, [&] { kept.reset(); });
    auto pipe = open_xl();
    auto add = [&](int i) {
      pipe.load_lora_weights(cache / "loras" / fmt::format("sdxl-{}.safetensors", i),
                             {.adapter_name = fmt::format("a{}", i)});
    };
    measure(
        "xl.load", {.runs = runs}, [&] { add(0); }, nothing, [&] { pipe.unload_lora_weights(); });
    add(0), add(1);
    int turn = 0;
    measure(
        "xl.switch", {.runs = runs, .warm = 1, .loops = 6}, [&] { pipe.set_adapters({(turn ^= 1) ? "a1" : "a0"}); },
        nothing, nothing);
    pipe.set_adapters({"a0"});
    measure(
        "xl.fuse", {.runs = runs, .warm = 1}, [&] { pipe.fuse_lora(); }, nothing, [&] { pipe.unfuse_lora(); });
    measure(
        "xl.unfuse", {.runs = runs}, [&] { pipe.unfuse_lora(); }, [&] { pipe.fuse_lora(); }, nothing);

    // What moving those weights costs: each read once and written once, on every core.
    std::vector<Tensor> from, to;
    for (const auto& [component, model] : pipe.models())
      for (const auto& [key, t] : pipe.get_lora_layers(component, "a0"))
        if (constexpr std::string_view kUp = ".lora_B.weight"; key.ends_with(kUp)) {
          from.push_back(model->state_dict().at(key.substr(0, key.size() - kUp.size()) + ".weight"));
          to.push_back(at::empty_like(from.back()));
        }
    measure(
        "xl.copy", {.runs = runs, .warm = 1},
        [&] {
          for (size_t i = 0; i < from.size(); ++i) to[i].copy_(from[i]);
        },
        nothing, nothing);
  }
};

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Times lora.cpp on the models that bench/make_models.py wrote"};
  Bench bench{"", 3};
  int threads = 1;
  app.add_option("CACHE", bench.cache)->required();
  app.add_option("--threads", threads);
  app.add_option("--runs", bench.runs);
  std::string only;
  app.add_option("--only", only)->check(CLI::IsMember({"sd15", "sdxl", "files"}));
  CLI11_PARSE(app, argc, argv);
  at::set_num_threads(threads);

  if (only.empty() || only == "files") bench.files();
  if (only.empty() || only == "sd15") {
    bench.opening();
    {
      auto pipe = bench.open(at::kFloat);
      bench.loading(pipe);
      bench.stepping(pipe);
      bench.batch(pipe);
      bench.fusing(pipe, "float32");
    }
    auto half = bench.open(at::kHalf);
    bench.many(half);
    auto bfloat = bench.open(at::kBFloat16);
    bench.fusing(bfloat, "bfloat16");
  }
  if (only.empty() || only == "sdxl") bench.sdxl();
}
