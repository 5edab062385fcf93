#include "dialects/cloneofsimo.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "core/check.h"
#include "kinds/lora.h"

namespace lora {

namespace {

struct Pair {
  Tensor up, down;
};
using Pairs = std::vector<Pair>;

// The numbers of "0", "1", … as a list, or of `<component>:<number>:up|down`.
Pairs listed(const StateDict& file) {
  Pairs pairs;
  for (size_t i = 0; 2 * i + 1 < file.size(); ++i) {
    auto *up = file.find(std::to_string(2 * i)), *down = file.find(std::to_string(2 * i + 1));
    if (!up || !down) return {};
    pairs.push_back({*up, *down});
  }
  return file.size() % 2 == 0 ? pairs : Pairs();
}

Pairs listed(const StateDict& file, const std::string& component) {
  Pairs pairs;
  while (true) {
    auto at = fmt::format("{}:{}:", component, pairs.size());
    auto *up = file.find(at + "up"), *down = file.find(at + "down");
    if (!up || !down) return pairs;
    pairs.push_back({*up, *down});
  }
}

void put(StateDict& named, const std::string& module, const Pair& pair) {
  named.set(fmt::format("{}.{}", module, kDown), pair.down);
  named.set(fmt::format("{}.{}", module, kUp), pair.up);
}

// diffusers' UNet registers its middle last. Only transformer blocks were trained: both attentions and the first layer
// of what follows them, which stood between the attentions in the releases of that time.
void name_unet(StateDict& named, const Pairs& pairs, const std::string& label) {
  std::vector<std::string> blocks;
  for (int level = 0; level < 3; ++level)
    for (int i = 0; i < 2; ++i) blocks.push_back(fmt::format("down_blocks.{}.attentions.{}", level, i));
  for (int level = 1; level < 4; ++level)
    for (int i = 0; i < 3; ++i) blocks.push_back(fmt::format("up_blocks.{}.attentions.{}", level, i));
  blocks.push_back("mid_block.attentions.0");
  constexpr size_t kLayers = 9;
  check(pairs.size() == blocks.size() * kLayers, ErrorKind::unsupported,
        "{}: cloneofsimo's files do not name their layers. Only files for Stable Diffusion 1 and 2, with {} pairs, can "
        "be "
        "read; this one has {}",
        label, blocks.size() * kLayers, pairs.size());
  for (size_t b = 0; b < blocks.size(); ++b) {
    const auto* pair = &pairs[b * kLayers];
    auto block = "unet." + blocks[b] + ".transformer_blocks.0.";
    auto attention = [&](const std::string& name) {
      for (const char* leaf : {"to_q", "to_k", "to_v", "to_out.0"}) put(named, block + name + "." + leaf, *pair++);
    };
    attention("attn1");
    bool early = pair->up.size(0) == 8 * pair->down.size(1);
    if (early) put(named, block + "ff.net.0.proj", *pair++);
    attention("attn2");
    if (!early) put(named, block + "ff.net.0.proj", *pair++);
  }
}

void name_text_encoder(StateDict& named, const Pairs& pairs) {
  static constexpr const char* kLeaves[] = {"k_proj", "v_proj", "q_proj", "out_proj"};
  for (size_t i = 0; i < pairs.size(); ++i)
    put(named, fmt::format("text_encoder.text_model.encoder.layers.{}.self_attn.{}", i / 4, kLeaves[i % 4]), pairs[i]);
}

// A text encoder's layers all have one width.
bool is_text_encoder(const Pairs& pairs) {
  auto width = pairs.front().up.size(0);
  return std::all_of(pairs.begin(), pairs.end(),
                     [&](auto& p) { return p.up.size(0) == width && p.down.size(1) == width; });
}

}  // namespace

std::optional<StateDict> name_positions(const StateDict& file, const std::string& label) {
  auto unet = listed(file, "unet"), text = listed(file, "text_encoder");
  if (unet.empty() && text.empty()) {
    auto all = listed(file);
    bool matrices = std::all_of(all.begin(), all.end(), [](auto& p) { return p.up.dim() == 2 && p.down.dim() == 2; });
    if (all.empty() || !matrices) return std::nullopt;
    (is_text_encoder(all) ? text : unet) = std::move(all);
  }
  StateDict named;
  named.metadata = file.metadata;
  if (!unet.empty()) name_unet(named, unet, label);
  if (!text.empty()) name_text_encoder(named, text);
  return named;
}

}  // namespace lora
