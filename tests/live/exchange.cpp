// What live_test.py asks of the library:
//   live_exchange IN MODEL OUT [--pickle]          loads the LoRA file IN and saves it into the folder OUT
//   live_exchange forward MODEL INPUTS OUT SPEC    what the models give with the adapters of SPEC, a JSON file
// MODEL is a folder with `unet` and `text_encoder`. And of whole pipelines, what live_pipelines.py asks:
//   live_exchange pipeline MODEL LORA OUT          the pipeline as it is into OUT/pipeline; with the LoRA (a file, or
//                                                  "none") what it draws, OUT/latents.safetensors, and it into OUT/lora
#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>

#include "lora/lora.h"

namespace lora {

namespace {

using nlohmann::json;

// The loaders' mixin over the two models that it needs.
class Models : public StableDiffusionLoraLoaderMixin {
 public:
  Models(const std::filesystem::path& folder, Dtype dtype)
      : unet(UNet2DConditionModel::from_pretrained(folder / "unet", {.dtype = dtype})),
        text_encoder(CLIPTextModel::from_pretrained(folder / "text_encoder", {.dtype = dtype})) {
    adapt({{"unet", &unet}, {"text_encoder", &text_encoder}});
  }

  UNet2DConditionModel unet;
  CLIPTextModel text_encoder;
};

Dtype dtype_of(const std::string& name) {
  if (name == "float32") return at::kFloat;
  if (name == "float16") return at::kHalf;
  if (name == "bfloat16") return at::kBFloat16;
  throw Error(ErrorKind::usage, "dtype is " + name + "; float32, float16 or bfloat16 was expected");
}

// A component that the file has nothing for has no such adapter.
StateDict layers(const Models& models, const std::string& component, const std::string& adapter) {
  auto listed = models.get_list_adapters();
  const auto& there = listed[component];
  bool has = std::find(there.begin(), there.end(), adapter) != there.end();
  return has ? models.get_lora_layers(component, adapter) : StateDict();
}

void resave(const std::string& in, const std::string& model, const std::string& out, bool pickle) {
  Models models(model, at::kFloat);
  auto report = models.load_lora_weights(in, {.strict = true});
  Models::save_lora_weights(out, layers(models, "unet", report.adapter_name),
                            layers(models, "text_encoder", report.adapter_name), {.safe_serialization = !pickle});
}

void load_adapters(Models& models, const json& spec) {
  std::vector<std::string> names;
  std::vector<LoraScale> weights;
  for (const auto& adapter : spec["adapters"]) {
    names.push_back(adapter["name"]);
    weights.push_back(LoraScale::parse(adapter["weight"].dump()));
    models.load_lora_weights(adapter["file"].get<std::string>(), {.adapter_name = names.back(), .strict = true});
  }
  models.set_adapters(names, weights);
  if (spec["fuse"]) models.fuse_lora({.lora_scale = spec["lora_scale"], .adapter_names = names});
}

StateDict outputs(const Models& models, const StateDict& inputs) {
  c10::InferenceMode inference;
  auto in = [&](const char* name) { return inputs.at(name).to(models.unet.dtype()); };
  return {{"unet", models.unet(in("sample"), inputs.at("timestep"), in("encoder_hidden_states"))},
          {"text_encoder", models.text_encoder(inputs.at("input_ids")).last_hidden_state}};
}

void forward(const std::string& model, const std::string& inputs, const std::string& out, const std::string& file) {
  auto spec = json::parse(std::ifstream(file));
  Models models(model, dtype_of(spec["dtype"]));
  load_adapters(models, spec);
  auto results = outputs(models, load_state_dict(inputs));
  if (spec["fuse"]) {
    for (const auto& [name, tensor] : models.unet.state_dict()) results.set("weights.unet." + name, tensor);
    for (const auto& [name, tensor] : models.text_encoder.state_dict())
      results.set("weights.text_encoder." + name, tensor);
  }
  save_safetensors(results, out);
}

void pipeline(const std::string& model, const std::string& file, const std::filesystem::path& out) {
  auto pipe = DiffusionPipeline::from_pretrained(model, {.dtype = at::kFloat});
  pipe->save_pretrained(out / "pipeline");
  if (file != "none") {
    auto name = pipe->load_lora_weights(file, {.strict = true}).adapter_name;
    auto of = [&](const char* component) {
      for (const auto& c : pipe->models())
        if (c.name == component) return pipe->get_lora_layers(component, name);
      return StateDict();
    };
    auto text = of("text_encoder"), text_2 = of("text_encoder_2");
    if (dynamic_cast<StableDiffusionXLPipeline*>(pipe.get()))
      StableDiffusionXLPipeline::save_lora_weights(out / "lora", of("unet"), text, text_2);
    else
      StableDiffusion3Pipeline::save_lora_weights(out / "lora", of("transformer"), text, text_2);
  }
  auto latents = pipe->generate_latents("red apple", {.num_inference_steps = 2, .seed = {5}});
  save_safetensors({{"latents", latents}}, out / "latents.safetensors");
}

int run(const std::vector<std::string>& a) {
  if (a.size() == 4 && a[0] == "pipeline")
    pipeline(a[1], a[2], a[3]);
  else if (a.size() == 5 && a[0] == "forward")
    forward(a[1], a[2], a[3], a[4]);
  else if (a.size() == 3 || (a.size() == 4 && a[3] == "--pickle"))
    resave(a[0], a[1], a[2], a.size() == 4);
  else
    throw Error(ErrorKind::usage,
                "live_exchange IN MODEL OUT [--pickle], forward MODEL INPUTS OUT SPEC, or pipeline MODEL LORA OUT");
  return 0;
}

}  // namespace

}  // namespace lora

int main(int argc, char** argv) {
  try {
    return lora::run({argv + 1, argv + argc});
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
