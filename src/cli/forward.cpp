#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <fmt/format.h>

#include "cli/common.h"
#include "core/check.h"

namespace lora {

namespace {

struct Arguments {
  ModelArguments model;
  std::string component, inputs, output;
  bool fuse = false;
};

// The input of that name on the model's device; floats in its dtype.
Tensor input(const StateDict& inputs, const std::string& name, const Model& model) {
  const auto& t = inputs.at(name);
  return t.is_floating_point() && name != "timestep" ? t.to(model.device(), model.dtype()) : t.to(model.device());
}

Tensor optional_input(const StateDict& inputs, const std::string& name, const Model& model) {
  return inputs.contains(name) ? input(inputs, name, model) : Tensor();
}

StateDict forward_unet(const UNet2DConditionModel& unet, const StateDict& in) {
  UNetOptions options{.text_embeds = optional_input(in, "text_embeds", unet),
                      .time_ids = optional_input(in, "time_ids", unet),
                      .timestep_cond = optional_input(in, "timestep_cond", unet),
                      .encoder_attention_mask = optional_input(in, "encoder_attention_mask", unet)};
  return {{"sample", unet(input(in, "sample", unet), input(in, "timestep", unet),
                          input(in, "encoder_hidden_states", unet), options)}};
}

StateDict forward_text_encoder(const CLIPTextModel& text_encoder, const StateDict& in) {
  auto out = text_encoder(input(in, "input_ids", text_encoder));
  StateDict results{{"last_hidden_state", out.last_hidden_state},
                    {"penultimate_hidden_state", out.hidden_states.at(out.hidden_states.size() - 2)}};
  if (out.text_embeds.defined())
    results.set("text_embeds", out.text_embeds);
  else
    results.set("pooler_output", out.pooler_output);
  return results;
}

// `x` (pixels) is encoded, `z` (unscaled latents) decoded.
StateDict forward_vae(const AutoencoderKL& vae, const StateDict& in) {
  check(in.contains("x") || in.contains("z"), ErrorKind::bad_key,
        "the VAE takes x (pixels, to encode) or z (latents, to decode)");
  if (in.contains("z")) return {{"sample", vae.decode(input(in, "z", vae))}};
  auto distribution = vae.encode(input(in, "x", vae));
  return {{"mean", distribution.mean}, {"logvar", distribution.logvar}};
}

void run(const Arguments& a) {
  c10::InferenceMode inference;
  auto in = load_state_dict(a.inputs);
  auto pipe = StableDiffusionPipeline::from_pretrained(a.model.model, a.model.pipeline_options());
  load_loras(pipe, a.model.lora_arguments());
  if (a.fuse) pipe.fuse_lora();
  StateDict out;
  if (a.component == "unet")
    out = forward_unet(pipe.unet, in);
  else if (a.component == "text_encoder")
    out = forward_text_encoder(pipe.text_encoder, in);
  else if (a.component == "vae")
    out = forward_vae(pipe.vae, in);
  else
    fail(ErrorKind::usage, "--component {}: this model has unet, text_encoder, vae", a.component);
  save_safetensors(out, a.output);
  for (const auto& [name, tensor] : out)
    fmt::print("{} {} {}\n", name, c10::str(tensor.sizes()), to_string(tensor.scalar_type()));
}

}  // namespace

void declare_forward(CLI::App& app) {
  auto a = std::make_shared<Arguments>();
  auto* command =
      app.add_subcommand("forward", "Runs one component on tensors from a file, to compare with other implementations");
  a->model.declare(*command);
  command->add_option("--component", a->component, "unet, text_encoder or vae")->required();
  command
      ->add_option("--inputs", a->inputs,
                   "A safetensors file. unet: sample, timestep, encoder_hidden_states, text_embeds, time_ids; "
                   "text_encoder: input_ids; vae: x or z")
      ->required();
  command->add_option("-o,--output", a->output, "The safetensors file to write")->required();
  command->add_flag("--fuse", a->fuse, "Fuses the LoRAs first");
  command->callback([a] { run(*a); });
}

}  // namespace lora
