#include <ATen/ATen.h>

#include "core/check.h"
#include "core/edge.h"
#include "lora/denoisers.h"
#include "models/config_reader.h"
#include "models/factory.h"
#include "models/input_checks.h"
#include "models/uvit_2d_blocks.h"
#include "nn/embeddings.h"

namespace lora {

namespace {

constexpr auto kName = "UVit2DModel";

struct UVit2DConfig {
  int64_t vocab_size, codebook_size, sample_size;
  int64_t in_channels;            // of the embeddings, and of the input of the last layer
  int64_t encoder_hidden_size;    // of the text encoder's hidden states
  int64_t cond_embed_dim;         // of the text encoder's projected output
  int64_t micro_cond_encode_dim;  // of one micro condition's sinusoids
  int64_t micro_conds;            // the number of micro conditions
  int64_t num_hidden_layers;
  bool resample;  // the transformer works on half the height and width
  UVitSettings blocks;

  static UVit2DConfig parse(const std::string& text, const std::string& label);
};

UVitSettings parse_blocks(ConfigReader& config) {
  UVitSettings c;
  c.hidden_size = config.integer("hidden_size", 1024);
  c.channels = config.integer("block_out_channels", 768);
  c.eps = config.number("layer_norm_eps", 1e-6);
  c.block_num_heads = config.integer("block_num_heads", 12);
  c.num_res_blocks = config.integer("num_res_blocks", 3, 0);
  c.num_attention_heads = config.integer("num_attention_heads", 16);
  c.intermediate_size = config.integer("intermediate_size", 2816);
  if (c.channels % c.block_num_heads != 0) config.reject("block_num_heads", "a divisor of block_out_channels");
  if (c.hidden_size % c.num_attention_heads != 0) config.reject("num_attention_heads", "a divisor of hidden_size");
  return c;
}

UVit2DConfig UVit2DConfig::parse(const std::string& text, const std::string& label) {
  ConfigReader config(text, label);
  UVit2DConfig c;
  c.vocab_size = config.integer("vocab_size", 8256);
  c.codebook_size = config.integer("codebook_size", 8192);
  c.sample_size = config.integer("sample_size", 64);
  c.in_channels = config.integer("in_channels", 768);
  c.encoder_hidden_size = config.integer("encoder_hidden_size", 768);
  c.cond_embed_dim = config.integer("cond_embed_dim", 768);
  c.micro_cond_encode_dim = config.integer("micro_cond_encode_dim", 256);
  const auto micro_cond_embed_dim = config.integer("micro_cond_embed_dim", 1280);
  c.micro_conds = micro_cond_embed_dim / c.micro_cond_encode_dim;
  c.num_hidden_layers = config.integer("num_hidden_layers", 22, 0);
  c.resample = config.flag("downsample", false);
  c.blocks = parse_blocks(config);

  if (c.micro_conds * c.micro_cond_encode_dim != micro_cond_embed_dim)
    config.reject("micro_cond_embed_dim", "a multiple of micro_cond_encode_dim");
  if (config.flag("upsample", false) != c.resample) config.refuse("upsample", "the value of \"downsample\"");
  config.only("use_bias", {false});
  config.only("ln_elementwise_affine", {true});
  config.ignore({"hidden_dropout", "attention_dropout"});  // for training
  config.finish();
  return c;
}

}  // namespace

template <>
struct PretrainedModel<UVit2DModel>::Impl {
  Scope s;
  UVit2DConfig c;

  Linear encoder_proj{s / "encoder_proj", c.encoder_hidden_size, c.blocks.hidden_size, kNoBias};
  RMSNorm encoder_proj_layer_norm{s / "encoder_proj_layer_norm", c.blocks.hidden_size, c.blocks.eps};
  UVit2DConvEmbed embed{s / "embed", c.vocab_size, c.in_channels, c.blocks.channels, c.blocks.eps};
  Timesteps micro_cond_proj{c.micro_cond_encode_dim};
  TimestepEmbedding cond_embed{s / "cond_embed",
                               c.micro_conds* c.micro_cond_encode_dim + c.cond_embed_dim,
                               c.blocks.hidden_size,
                               Activation::silu,
                               {},
                               0,
                               kNoBias};
  UVitBlock down_block{s / "down_block", c.blocks, c.resample, false};
  RMSNorm project_to_hidden_norm{s / "project_to_hidden_norm", c.blocks.channels, c.blocks.eps};
  Linear project_to_hidden{s / "project_to_hidden", c.blocks.channels, c.blocks.hidden_size, kNoBias};
  std::vector<UVitTransformerLayer> transformer_layers =
      repeat<UVitTransformerLayer>(s / "transformer_layers", c.num_hidden_layers, c.blocks);
  RMSNorm project_from_hidden_norm{s / "project_from_hidden_norm", c.blocks.hidden_size, c.blocks.eps};
  Linear project_from_hidden{s / "project_from_hidden", c.blocks.hidden_size, c.blocks.channels, kNoBias};
  UVitBlock up_block{s / "up_block", c.blocks, false, c.resample};
  ConvMlmLayer mlm_layer{s / "mlm_layer", c.blocks.channels, c.in_channels, c.codebook_size, c.blocks.eps};

  static constexpr WeightFiles kFiles = kDiffusersFiles;
  static std::string class_name() { return kName; }

  void check_ids(const Tensor& ids) const;
  void check_conditions(int64_t images, const Tensor& context, const Tensor& pooled, const Tensor& micro_conds) const;
  UVitConditioning conditioning(const Tensor& context, const Tensor& pooled, const Tensor& micro_conds) const;
  Tensor forward(const Tensor& ids, const UVitConditioning& given) const;
};

template class PretrainedModel<UVit2DModel>;

// ---- Calls ----------------------------------------------------------------------------------------------------------

Tensor UVit2DModel::operator()(const Tensor& input_ids, const Tensor& encoder_hidden_states,
                               const Tensor& pooled_text_emb, const Tensor& micro_conds) const {
  return edge([&] {
    const RunScope run(parts_of(*this));
    impl().check_ids(input_ids);
    impl().check_conditions(input_ids.size(0), encoder_hidden_states, pooled_text_emb, micro_conds);
    return impl().forward(input_ids.to(device()),
                          impl().conditioning(encoder_hidden_states, pooled_text_emb, micro_conds));
  });
}

UVitConditioning UVit2DModel::Impl::conditioning(const Tensor& context, const Tensor& pooled,
                                                 const Tensor& micro_conds) const {
  auto sizes = micro_cond_proj(micro_conds.to(pooled.device()).flatten()).view({pooled.size(0), -1});
  auto pooled_and_sizes = cond_embed(at::cat({pooled, sizes.to(pooled.scalar_type())}, 1));
  auto projected = encoder_proj_layer_norm(encoder_proj({context, kText}));
  return {.embed = activate(Activation::silu, std::move(pooled_and_sizes)),
          .context = projected,
          .activated_context = at::silu(projected)};
}

Tensor UVit2DModel::Impl::forward(const Tensor& ids, const UVitConditioning& given) const {
  auto map = down_block(embed(ids), given);
  const Place here{map.size(1), map.size(2)};
  auto tokens = project_to_hidden({project_to_hidden_norm(map.flatten(1, 2)), here});
  for (const auto& layer : transformer_layers) tokens = layer({tokens, here}, given);
  tokens = project_from_hidden({project_from_hidden_norm(tokens), here});
  return mlm_layer(up_block(tokens.unflatten(1, {here.height, here.width}), given));
}

void UVit2DModel::Impl::check_ids(const Tensor& ids) const {
  const int64_t multiple = c.resample ? 2 : 1;
  check_input(ids.defined() && ids.scalar_type() == at::kLong && ids.dim() == 3 && ids.numel() > 0 &&
                  ids.size(1) % multiple == 0 && ids.size(2) % multiple == 0,
              kName, "input_ids", c.resample ? "int64 [N, h, w] with even h and w" : "int64 [N, h, w]", ids);
  check_id_range("UVit2DModel: input_ids", ids, "the vocabulary", c.vocab_size, "they may be tokens of another model");
}

void UVit2DModel::Impl::check_conditions(int64_t images, const Tensor& context, const Tensor& pooled,
                                         const Tensor& micro_conds) const {
  const auto dtype = encoder_proj.site->weight.scalar_type();
  auto is_batch = [&](const Tensor& t, int64_t dim, int64_t channels) {
    return t.defined() && t.dim() == dim && t.size(0) == images && t.size(-1) == channels;
  };
  check_input(is_batch(context, 3, c.encoder_hidden_size) && context.scalar_type() == dtype, kName,
              "encoder_hidden_states",
              fmt::format("{} [{}, tokens, {}]", to_string(dtype), images, c.encoder_hidden_size), context);
  check_input(is_batch(pooled, 2, c.cond_embed_dim) && pooled.scalar_type() == dtype, kName, "pooled_text_emb",
              fmt::format("{} [{}, {}]", to_string(dtype), images, c.cond_embed_dim), pooled);
  check_input(is_batch(micro_conds, 2, c.micro_conds), kName, "micro_conds",
              fmt::format("[{}, {}]", images, c.micro_conds), micro_conds);
}

// ---- Config ---------------------------------------------------------------------------------------------------------

int64_t UVit2DModel::sample_size() const { return impl().c.sample_size; }
bool UVit2DModel::downsample() const { return impl().c.resample; }
int64_t UVit2DModel::vocab_size() const { return impl().c.vocab_size; }
int64_t UVit2DModel::codebook_size() const { return impl().c.codebook_size; }
int64_t UVit2DModel::encoder_hidden_size() const { return impl().c.encoder_hidden_size; }
int64_t UVit2DModel::cond_embed_dim() const { return impl().c.cond_embed_dim; }

}  // namespace lora
