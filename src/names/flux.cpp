#include "names/flux.h"

namespace lora {

std::span<const FluxRow> flux_rows() {
  static constexpr FluxRow kRows[] = {
      {"double_blocks.#.img_attn.qkv", "transformer_blocks.#.attn.to_q", {0, 1, 3}},
      {"double_blocks.#.img_attn.qkv", "transformer_blocks.#.attn.to_k", {1, 2, 3}},
      {"double_blocks.#.img_attn.qkv", "transformer_blocks.#.attn.to_v", {2, 3, 3}},
      {"double_blocks.#.txt_attn.qkv", "transformer_blocks.#.attn.add_q_proj", {0, 1, 3}},
      {"double_blocks.#.txt_attn.qkv", "transformer_blocks.#.attn.add_k_proj", {1, 2, 3}},
      {"double_blocks.#.txt_attn.qkv", "transformer_blocks.#.attn.add_v_proj", {2, 3, 3}},
      {"double_blocks.#.img_attn.proj", "transformer_blocks.#.attn.to_out.0", {}},
      {"double_blocks.#.txt_attn.proj", "transformer_blocks.#.attn.to_add_out", {}},
      {"double_blocks.#.img_attn.norm.query_norm", "transformer_blocks.#.attn.norm_q", {}},
      {"double_blocks.#.img_attn.norm.key_norm", "transformer_blocks.#.attn.norm_k", {}},
      {"double_blocks.#.txt_attn.norm.query_norm", "transformer_blocks.#.attn.norm_added_q", {}},
      {"double_blocks.#.txt_attn.norm.key_norm", "transformer_blocks.#.attn.norm_added_k", {}},
      {"double_blocks.#.img_mlp.0", "transformer_blocks.#.ff.net.0.proj", {}},
      {"double_blocks.#.img_mlp.2", "transformer_blocks.#.ff.net.2", {}},
      {"double_blocks.#.txt_mlp.0", "transformer_blocks.#.ff_context.net.0.proj", {}},
      {"double_blocks.#.txt_mlp.2", "transformer_blocks.#.ff_context.net.2", {}},
      {"double_blocks.#.img_mod.lin", "transformer_blocks.#.norm1.linear", {}},
      {"double_blocks.#.txt_mod.lin", "transformer_blocks.#.norm1_context.linear", {}},
      {"single_blocks.#.linear1", "single_transformer_blocks.#.attn.to_q", {0, 1, 7}},
      {"single_blocks.#.linear1", "single_transformer_blocks.#.attn.to_k", {1, 2, 7}},
      {"single_blocks.#.linear1", "single_transformer_blocks.#.attn.to_v", {2, 3, 7}},
      {"single_blocks.#.linear1", "single_transformer_blocks.#.proj_mlp", {3, 7, 7}},
      {"single_blocks.#.linear2", "single_transformer_blocks.#.proj_out", {}},
      {"single_blocks.#.modulation.lin", "single_transformer_blocks.#.norm.linear", {}},
      {"single_blocks.#.norm.query_norm", "single_transformer_blocks.#.attn.norm_q", {}},
      {"single_blocks.#.norm.key_norm", "single_transformer_blocks.#.attn.norm_k", {}},
      {"img_in", "x_embedder", {}},
      {"txt_in", "context_embedder", {}},
      {"time_in.in_layer", "time_text_embed.timestep_embedder.linear_1", {}},
      {"time_in.out_layer", "time_text_embed.timestep_embedder.linear_2", {}},
      {"vector_in.in_layer", "time_text_embed.text_embedder.linear_1", {}},
      {"vector_in.out_layer", "time_text_embed.text_embedder.linear_2", {}},
      {"guidance_in.in_layer", "time_text_embed.guidance_embedder.linear_1", {}},
      {"guidance_in.out_layer", "time_text_embed.guidance_embedder.linear_2", {}},
      {"final_layer.linear", "proj_out", {}},
      {"final_layer.adaLN_modulation.1", "norm_out.linear", {}, Halves::swapped},
      // What XLabs trains of linear1, which has no layer of its own: read only.
      {"single_blocks.#.linear1.qkv", "single_transformer_blocks.#.attn.to_q", {0, 1, 3}, Halves::as_they_are, true},
      {"single_blocks.#.linear1.qkv", "single_transformer_blocks.#.attn.to_k", {1, 2, 3}, Halves::as_they_are, true},
      {"single_blocks.#.linear1.qkv", "single_transformer_blocks.#.attn.to_v", {2, 3, 3}, Halves::as_they_are, true},
  };
  return kRows;
}

}  // namespace lora
