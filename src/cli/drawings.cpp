#include "drawings.h"

#include "prompt_tags.h"

namespace lora::cli {

CallOptions of_range(CallOptions call, PictureRange range) {
  auto keep = [&](auto& all) {
    if (int(all.size()) != call.num_images_per_prompt) return;  // it is for all pictures
    all.erase(all.begin() + range.first + range.count, all.end());
    all.erase(all.begin(), all.begin() + range.first);
  };
  auto seeds = call.seed.values();
  keep(seeds);
  keep(call.adapters_per_image);
  call.seed = seeds;
  call.num_images_per_prompt = range.count;
  return call;
}

std::vector<Drawing> drawings(const DrawArguments& a, int count, std::vector<LoraArgument>& loras) {
  const auto common = a.call_options(count);
  const auto lines = a.prompts.lines(count);
  const auto seed = parse_seed("--seed", a.seed, count * int(lines.size()));
  const auto of_all = loras.size();
  std::vector<Drawing> all;
  for (const auto& line : lines) {
    Drawing drawing{line, {}, common, line.seed.value_or(seed + all.size() * uint64_t(count))};
    const auto [prompt, tagged] = drawing.named([&] { return take_lora_tags(line.prompt, a.lora_dir); });
    drawing.line.prompt = prompt;
    for (size_t i = 0; i < of_all; ++i) drawing.loras.push_back(i);
    for (const auto& lora : tagged) {
      auto i = of_all;  // the same LoRA of another line
      while (i < loras.size() && (loras[i].file != lora.file || loras[i].text != lora.text || drawing.has(i))) ++i;
      if (i == loras.size()) loras.push_back(lora);
      drawing.loras.push_back(i);
    }
    auto& call = drawing.call;
    if (line.negative) call.negative_prompt = *line.negative;
    if (line.width) call.width = *line.width;
    if (line.height) call.height = *line.height;
    if (line.steps) call.num_inference_steps = line.steps;
    if (line.cfg) call.guidance_scale = line.cfg;
    all.push_back(std::move(drawing));
  }
  return all;
}

}  // namespace lora::cli
