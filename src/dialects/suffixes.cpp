// The ends of keys that several dialects share.
#include <algorithm>

#include "dialects/tables.h"

namespace lora {

namespace {

// The longer ones before those that they end with.
constexpr Row kKohyaRows[] = {
    {".lora_down.weight", "lora_A.weight"},
    {".lora_up.weight", "lora_B.weight"},
    {".lora_mid.weight", "lora_mid.weight"},
    {".alpha", "alpha"},
    {".scale", "scale"},
    {".dora_scale", "dora_scale"},
    {".diff", "diff"},
    {".diff_b", "diff_b"},
    {".w_norm", "diff"},  // of norms
    {".b_norm", "diff_b"},
    {".hada_w1_a", "hada_w1_a"},
    {".hada_w1_b", "hada_w1_b"},
    {".hada_w2_a", "hada_w2_a"},
    {".hada_w2_b", "hada_w2_b"},
    {".hada_t1", "hada_t1"},
    {".hada_t2", "hada_t2"},
    {".lokr_w1", "lokr_w1"},
    {".lokr_w1_a", "lokr_w1_a"},
    {".lokr_w1_b", "lokr_w1_b"},
    {".lokr_w2", "lokr_w2"},
    {".lokr_w2_a", "lokr_w2_a"},
    {".lokr_w2_b", "lokr_w2_b"},
    {".lokr_t2", "lokr_t2"},
    {".a1.weight", "a1.weight"},
    {".a2.weight", "a2.weight"},
    {".b1.weight", "b1.weight"},
    {".b2.weight", "b2.weight"},
    {".oft_blocks", "oft_blocks"},
    {".rescale", "rescale"},
    {".oft_R.weight", "oft_R.weight"},
    {".oft_R.scaled_oft", "oft_R.scaled_oft"},
    {".on_input", "on_input"},
    {".lora_A.weight", "lora_A.weight"},
    {".lora_B.weight", "lora_B.weight"},
    {".weight", "weight"},  // IA3, where the module has on_input
};

}  // namespace

std::optional<std::string> take_kohya_suffix(std::string_view& key) {
  auto rest = key;
  auto suffix = take_suffix(rest, kKohyaRows);
  // "….lora.down.weight" is an older spelling of factors.
  if (!suffix || (suffix == "weight" && (rest.ends_with(".down") || rest.ends_with(".up")))) return std::nullopt;
  key = rest;
  return suffix;
}

std::string_view kohya_suffix(std::string_view ours) {
  for (auto [theirs, name] : kKohyaRows)
    if (name == ours) return theirs;
  return "";
}

std::optional<std::string> take_peft_suffix(std::string_view& key) {
  static constexpr Row kRows[] = {
      {".lora_A", "lora_A.weight"},
      {".lora_B", "lora_B.weight"},
      {".lora_embedding_A", "lora_A.weight"},
      {".lora_embedding_B", "lora_B.weight"},
      {".lora_magnitude_vector", "lora_magnitude_vector"},
      {".magnitude", "lora_magnitude_vector"},  // ai-toolkit
      {".oft_R.scaled_oft", "oft_R.scaled_oft"},
      {".oft_R", "oft_R.weight"},
      {".ia3_l", "ia3_l"},
      {".hada_w1_a", "hada_w1_a"},
      {".hada_w1_b", "hada_w1_b"},
      {".hada_w2_a", "hada_w2_a"},
      {".hada_w2_b", "hada_w2_b"},
      {".hada_t1", "hada_t1"},
      {".hada_t2", "hada_t2"},
      {".lokr_w1", "lokr_w1"},
      {".lokr_w1_a", "lokr_w1_a"},
      {".lokr_w1_b", "lokr_w1_b"},
      {".lokr_w2", "lokr_w2"},
      {".lokr_w2_a", "lokr_w2_a"},
      {".lokr_w2_b", "lokr_w2_b"},
      {".lokr_t2", "lokr_t2"},
      {".lokr_rows", "lokr_rows"},  // ours: get_lora_layers' part of a fused layer
  };
  auto rest = key;
  bool bias = rest.ends_with(".bias");
  if (bias || rest.ends_with(".weight")) rest.remove_suffix(rest.size() - rest.rfind('.'));
  auto found = take_suffix(rest, kRows);
  if (!found) {  // with an adapter's name behind it
    auto dot = rest.rfind('.');
    if (dot == std::string_view::npos) return std::nullopt;
    rest = rest.substr(0, dot);
    found = take_suffix(rest, kRows);
  }
  if (!found || (bias && *found != "lora_B.weight")) return std::nullopt;
  key = rest;
  return bias ? "lora_B.bias" : found;
}

std::span<const Row> clip_names() {
  static constexpr Row kRows[] = {
      {"clip_l.", "text_encoder"},  {"clip_h.", "text_encoder"}, {"clip_g.", "text_encoder_2"},
      {"t5xxl.", "text_encoder_3"}, {"t5.", "text_encoder_3"},
  };
  return kRows;
}

}  // namespace lora
