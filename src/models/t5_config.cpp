#include "models/t5_config.h"

#include "models/config_reader.h"

namespace lora {

using nlohmann::json;

namespace {

void reject_other_architectures(ConfigReader& config) {
  const json kEncoder = {"T5EncoderModel"}, kWhole = {"T5Model"}, kGenerating = {"T5ForConditionalGeneration"};
  config.only("model_type", {"t5"});
  config.only("architectures", {kEncoder, kWhole, kGenerating, nullptr});
  config.only("is_decoder", {false});
  config.only("quantization_config", {nullptr});

  // These repeat feed_forward_proj.
  config.ignore({"dense_act_fn", "is_gated_act"});
  // Fields for the decoder, for training, for the tokenizer and for transformers.
  config.ignore({"num_decoder_layers", "decoder_start_token_id", "scale_decoder_outputs", "tie_word_embeddings",
                 "is_encoder_decoder", "use_cache", "output_past"});
  config.ignore({"dropout_rate", "classifier_dropout", "initializer_factor", "gradient_checkpointing"});
  config.ignore({"n_positions", "pad_token_id", "eos_token_id", "bos_token_id", "prefix", "task_specific_params",
                 "tokenizer_class"});
  config.ignore(
      {"dtype", "torch_dtype", "transformers_version", "return_dict", "output_attentions", "output_hidden_states"});
}

}  // namespace

T5Config T5Config::parse(const std::string& text, const std::string& label) {
  ConfigReader config(text, label);
  reject_other_architectures(config);

  T5Config c;
  c.vocab_size = config.integer("vocab_size", c.vocab_size);
  c.d_model = config.integer("d_model", c.d_model);
  c.d_kv = config.integer("d_kv", c.d_kv);
  c.d_ff = config.integer("d_ff", c.d_ff);
  c.num_layers = config.integer("num_layers", c.num_layers);
  c.num_heads = config.integer("num_heads", c.num_heads);
  // A quarter of the buckets are for single distances. There must be at least one of these.
  c.relative_attention_num_buckets = config.integer("relative_attention_num_buckets", 32, 4);
  c.relative_attention_max_distance = config.integer("relative_attention_max_distance", 128);
  c.layer_norm_epsilon = config.number("layer_norm_epsilon", c.layer_norm_epsilon);
  config.only("feed_forward_proj", {"relu", "gated-gelu"});
  c.gated_gelu = config.value("feed_forward_proj") == "gated-gelu";
  if (c.relative_attention_max_distance <= c.relative_attention_num_buckets / 4)
    config.reject("relative_attention_max_distance", "more than a quarter of relative_attention_num_buckets");
  config.finish();
  return c;
}

}  // namespace lora
