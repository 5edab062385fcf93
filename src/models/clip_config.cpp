#include "models/clip_config.h"

#include "core/check.h"
#include "models/config_reader.h"

namespace lora {

using nlohmann::json;

static ClipActivation activation(ConfigReader& config) {
  auto name = config.word("hidden_act", "quick_gelu");
  if (name == "quick_gelu") return ClipActivation::quick_gelu;
  if (name == "gelu") return ClipActivation::gelu;
  config.refuse("hidden_act", "\"quick_gelu\", \"gelu\"");
}

CLIPTextConfig CLIPTextConfig::parse(const std::string& text, const std::string& label) {
  ConfigReader config(text, label);
  const json kPlain = {"CLIPTextModel"}, kProjecting = {"CLIPTextModelWithProjection"};
  config.only("model_type", {"clip_text_model"});
  config.only("architectures", {kPlain, kProjecting, nullptr});
  config.only("tie_last_hidden_states", {false, nullptr});
  config.only("quantization_config", {nullptr});

  CLIPTextConfig c;
  c.vocab_size = config.integer("vocab_size", c.vocab_size);
  c.hidden_size = config.integer("hidden_size", c.hidden_size);
  c.intermediate_size = config.integer("intermediate_size", c.intermediate_size);
  c.projection_dim = config.maybe_integer("projection_dim").value_or(c.projection_dim);
  c.num_hidden_layers = config.integer("num_hidden_layers", c.num_hidden_layers);
  c.num_attention_heads = config.integer("num_attention_heads", c.num_attention_heads);
  c.max_position_embeddings = config.integer("max_position_embeddings", c.max_position_embeddings);
  c.eos_token_id = config.integer("eos_token_id", c.eos_token_id, 0);
  c.layer_norm_eps = config.number("layer_norm_eps", c.layer_norm_eps);
  c.hidden_act = activation(config);
  c.with_projection = config.value("architectures") == kProjecting;
  if (c.hidden_size % c.num_attention_heads != 0) config.reject("num_attention_heads", "a divisor of hidden_size");
  return c;
}

}  // namespace lora
