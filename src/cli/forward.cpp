#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>

#include "check.h"
#include "fusing.h"
#include "lora/autoencoders.h"
#include "lora/denoisers.h"
#include "lora/text.h"
#include "lora/text_encoders.h"
#include "model_arguments.h"
#include "output.h"
#include "output_path.h"
#include "verbose.h"
#include "verbs.h"

namespace lora::cli {

namespace {

struct Arguments {
  ModelArguments model;
  std::string component, inputs, output;
  bool fuse = false, json = false;
};

// The input of that name on the model's device; floats in its dtype.
Tensor input(const StateDict& inputs, const std::string& name, const Model& model) {
  const auto& t = inputs.at(name);
  return t.is_floating_point() && name != "timestep" ? t.to(model.device(), model.dtype()) : t.to(model.device());
}

Tensor optional_input(const StateDict& inputs, const std::string& name, const Model& model) {
  return inputs.contains(name) ? input(inputs, name, model) : Tensor();
}

StateDict forward_unet(const Model& model, const StateDict& in) {
  const auto& unet = static_cast<const UNet2DConditionModel&>(model);
  UNetOptions options{.text_embeds = optional_input(in, "text_embeds", unet),
                      .time_ids = optional_input(in, "time_ids", unet),
                      .timestep_cond = optional_input(in, "timestep_cond", unet),
                      .encoder_attention_mask = optional_input(in, "encoder_attention_mask", unet)};
  return {{"sample", unet(input(in, "sample", unet), input(in, "timestep", unet),
                          input(in, "encoder_hidden_states", unet), options)}};
}

StateDict forward_sd3_transformer(const Model& model, const StateDict& in) {
  const auto& transformer = static_cast<const SD3Transformer2DModel&>(model);
  return {{"sample", transformer(input(in, "hidden_states", model), input(in, "encoder_hidden_states", model),
                                 input(in, "pooled_projections", model), input(in, "timestep", model))}};
}

StateDict forward_uvit(const Model& model, const StateDict& in) {
  const auto& transformer = static_cast<const UVit2DModel&>(model);
  return {{"logits", transformer(input(in, "input_ids", model), input(in, "encoder_hidden_states", model),
                                 input(in, "pooled_text_emb", model), input(in, "micro_conds", model))}};
}

StateDict forward_clip(const Model& model, const StateDict& in) {
  const auto& text_encoder = static_cast<const CLIPTextModel&>(model);
  auto out = text_encoder(input(in, "input_ids", text_encoder));
  StateDict results{{"last_hidden_state", out.last_hidden_state},
                    {"penultimate_hidden_state", out.hidden_states.at(out.hidden_states.size() - 2)}};
  if (out.text_embeds.defined())
    results.set("text_embeds", out.text_embeds);
  else
    results.set("pooler_output", out.pooler_output);
  return results;
}

StateDict forward_t5(const Model& model, const StateDict& in) {
  const auto& text_encoder = static_cast<const T5EncoderModel&>(model);
  return {{"last_hidden_state", text_encoder(input(in, "input_ids", model))}};
}

// `x` (pixels) is encoded to tokens, `tokens` decoded.
StateDict forward_vqvae(const Model& model, const StateDict& in) {
  const auto& vqvae = static_cast<const VQModel&>(model);
  check(in.contains("x") || in.contains("tokens"), ErrorKind::bad_key,
        "the inputs have neither x nor tokens. A VQ model encodes x (pixels) or decodes tokens.");
  if (in.contains("tokens")) return {{"sample", vqvae.decode(input(in, "tokens", model))}};
  return {{"tokens", vqvae.encode(input(in, "x", model))}};
}

// `x` (pixels) is encoded, `z` (unscaled latents) decoded.
StateDict forward_vae(const Model& model, const StateDict& in) {
  const auto& vae = static_cast<const AutoencoderKL&>(model);
  check(in.contains("x") || in.contains("z"), ErrorKind::bad_key,
        "the inputs have neither x nor z. A VAE encodes x (pixels) or decodes z (latents).");
  if (in.contains("z")) return {{"sample", vae.decode(input(in, "z", vae))}};
  auto distribution = vae.encode(input(in, "x", vae));
  return {{"mean", distribution.mean}, {"logvar", distribution.logvar}};
}

// By Model::class_name().
const std::map<std::string, StateDict (*)(const Model&, const StateDict&)> kForward = {
    {"UNet2DConditionModel", forward_unet},
    {"SD3Transformer2DModel", forward_sd3_transformer},
    {"UVit2DModel", forward_uvit},
    {"CLIPTextModel", forward_clip},
    {"CLIPTextModelWithProjection", forward_clip},
    {"T5EncoderModel", forward_t5},
    {"AutoencoderKL", forward_vae},
    {"VQModel", forward_vqvae},
};

// Tensors that do not fit are the fault of their file, not of the call.
StateDict forwarded(const Model& model, const StateDict& inputs, const std::string& file) {
  try {
    return kForward.at(model.class_name())(model, inputs);
  } catch (const Error& error) {
    throw Error(error.kind() == ErrorKind::usage ? ErrorKind::bad_shape : error.kind(),
                fmt::format("{}: {}", file, error.what()));
  }
}

void print_outputs(const std::string& file, const StateDict& out) {
  auto tensors = nlohmann::ordered_json::array();
  for (const auto& [name, tensor] : out)
    tensors.push_back({{"name", name}, {"shape", tensor.sizes().vec()}, {"dtype", to_string(tensor.scalar_type())}});
  print_json({{"file", valid_utf8(file)}, {"tensors", tensors}});
}

void run(const Arguments& a) {
  const auto loras = a.model.lora_arguments();
  const auto embeddings = a.model.embedding_arguments();
  check_has_loras(a.fuse, loras);
  check_can_write_file(a.output);
  c10::InferenceMode inference;
  auto in = load_state_dict(a.inputs);
  auto pipe = open_pipeline(a.model.model, a.model.pipeline_options());
  a.model.threads.fit(*pipe);
  load_embeddings(*pipe, embeddings);
  load_loras(*pipe, loras, a.model.partial());
  if (a.fuse) fuse(*pipe, {});
  auto components = pipe->models();
  components.push_back(pipe->autoencoder());
  auto it = std::find_if(components.begin(), components.end(), [&](auto& c) { return c.name == a.component; });
  std::vector<std::string> names;
  for (const auto& c : components) names.push_back(c.name);
  check(it != components.end(), ErrorKind::usage, "--component {}: no such component. This model has: {}.", a.component,
        fmt::join(names, ", "));
  auto out = forwarded(*it->model, in, a.inputs);
  tell_verbose(a.component + " computed");
  save_safetensors(out, a.output);
  tell_verbose(a.output + " saved");
  for (const auto& [name, tensor] : out)
    if (auto broken = tensor.numel() - at::isfinite(tensor).sum().item<int64_t>(); broken > 0)
      note(fmt::format("{}: {} of {} numbers are NaN or infinite in {}", name, broken, tensor.numel(),
                       to_string(tensor.scalar_type())));
  if (a.json) return print_outputs(a.output, out);
  for (const auto& [name, tensor] : out)
    print(fmt::format("{} {} {}", name, c10::str(tensor.sizes()), to_string(tensor.scalar_type())));
}

}  // namespace

void declare_forward(CLI::App& app) {
  auto a = std::make_shared<Arguments>();
  auto* command = app.add_subcommand("forward", "Runs one component of a model on tensors from a file");
  a->model.declare(*command);
  a->model.declare_embeddings(*command);
  command
      ->add_option("--component", a->component,
                   "unet, transformer, text_encoder, text_encoder_2, text_encoder_3, vae or vqvae")
      ->required();
  command
      ->add_option("--inputs", a->inputs,
                   "A safetensors file with the component's inputs, under their names. UNet: sample, timestep, "
                   "encoder_hidden_states, text_embeds, time_ids. SD 3: hidden_states, encoder_hidden_states, "
                   "pooled_projections, timestep. aMUSEd: input_ids, encoder_hidden_states, pooled_text_emb, "
                   "micro_conds. Text encoders: input_ids. vae: x or z. vqvae: x or tokens.")
      ->required();
  command->add_option("-o,--output", a->output, "The safetensors file to write")->required();
  command->add_flag("--fuse", a->fuse, "Fuses the LoRAs into the weights first");
  command->add_flag("--json", a->json, "Prints JSON");
  command->callback([a] { run(*a); });
}

}  // namespace lora::cli
