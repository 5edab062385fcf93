#!/usr/bin/env python3
"""Writes tests/data/pipelines: what diffusers' StableDiffusionPipeline draws with the embedded model and its LoRAs.

    python tools/reference/make_pipeline.py

cases.json names the arguments of each call, under the reference's own names; what a case leaves out has the value of
"defaults". `seed` makes one torch CPU generator, a list of seeds one for each image. "scheduler" is a class, made from
the model's own scheduler config with the fields given. Images are uint8 [N, H, W, 3]; latents are those after the last
step, before the VAE's scaling factor is divided out.
Tolerances: pixels by value, latents as a share of the largest one. Other kernels (two threads, no oneDNN) moved no
pixel by more than 1 and no latent by more than 1.6e-5.
"""
import shutil

import numpy as np
import torch
from common import DATA, ROOT, check_versions, normal, quiet, relative, save_json, save_tensors, sizes

OUT = DATA / "pipelines"
MODEL = ROOT / "models" / "tiny"
LORAS = ROOT / "models" / "loras"
DEFAULTS = dict(prompt="red apple", num_inference_steps=20, guidance_scale=4.0, seed=0)
STYLES = ("ink", "pixel", "blueprint", "neon")


def lora(name, weight=1.0, kohya=False):
    return dict(file=f"{name}-kohya.safetensors" if kohya else f"{name}.safetensors", adapter_name=name, weight=weight)


def scheduler(name, **config):
    return {"class": name, "config": config}


def make_cases():
    """name -> arguments"""
    short = dict(num_inference_steps=8)
    cases = {
        "base": {},
        "seed": dict(prompt="rocket", seed=1234567890123),
        "negative prompt": dict(prompt="a cute penguin", negative_prompt="blue, cat face"),
        "list of prompts": dict(prompt=["cactus", "strawberry on a yellow background"], seed=5),
        "list of negative prompts": dict(prompt=["fox", "owl"], negative_prompt=["orange", ""], seed=5, **short),
        "several images": dict(prompt="birthday cake", num_images_per_prompt=2, seed=7, **short),
        "a seed for each image": dict(prompt=["pizza", "guitar"], seed=[3, 0]),
        "several images, a seed for each": dict(
            prompt=["ghost", "star"], num_images_per_prompt=2, seed=[1, 2, 3, 4], **short
        ),
        "no guidance": dict(guidance_scale=1.0, **short),
        "strong guidance": dict(guidance_scale=9.0, **short),
        "eta": dict(eta=0.5, **short),
        "eta, a seed for each image": dict(prompt=["lemon", "carrot"], eta=1.0, seed=[8, 9], **short),
        "guidance rescale": dict(guidance_rescale=0.7, **short),
        "clip skip": dict(clip_skip=1, **short),
        "wide": dict(prompt="sailboat", height=64, width=96, **short),
        "tall": dict(prompt="castle", height=80, width=48, **short),
        "empty prompt": dict(prompt="", **short),
        "long prompt": dict(prompt=", ".join(["red apple, green leaf, on a white background, fruit"] * 4), **short),
        "one step": dict(num_inference_steps=1),
        "latents": dict(prompt="rainbow", latents="inputs.latents", **short),
    }
    for name, config in (
        ("DDIMScheduler", {}),
        ("PNDMScheduler", {}),
        ("EulerDiscreteScheduler", {}),
        ("EulerAncestralDiscreteScheduler", {}),
        ("DPMSolverMultistepScheduler", {}),
        ("DPMSolverMultistepScheduler", dict(use_karras_sigmas=True)),
        ("LCMScheduler", {}),
    ):
        suffix = " karras" if config else ""
        cases[name + suffix] = dict(prompt="octopus", scheduler=scheduler(name, **config), **short)
    for name in ("EulerAncestralDiscreteScheduler", "LCMScheduler"):
        cases[f"{name}, a seed for each image"] = dict(
            prompt=["bell", "bus"], seed=[11, 12], scheduler=scheduler(name), num_inference_steps=6
        )
    for style in STYLES:
        for weight in (1.0, 0.5):
            cases[f"{style}@{weight}"] = dict(prompt="rocket", adapters=[lora(style, weight)])
            cases[f"{style}@{weight} kohya"] = dict(prompt="rocket", adapters=[lora(style, weight, kohya=True)])
    two = [lora("ink", 0.7), lora("neon", 0.4)]
    cases["two adapters"] = dict(prompt="cat face", adapters=two)
    one = dict(adapters=[lora("pixel"), lora("ink", 0.5)], active=["pixel"])
    cases["one of two adapters"] = dict(prompt="cat face", **one, **short)
    cases["fused"] = dict(prompt="cat face", adapters=[lora("ink")], fused=True)
    cases["two fused"] = dict(prompt="cat face", adapters=two, fused=True, lora_scale=0.8)
    cases["negative weight"] = dict(prompt="cat face", adapters=[lora("neon", -0.5)], **short)
    call = dict(adapters=[lora("neon", 0.8)], cross_attention_kwargs={"scale": 0.5})
    cases["call scale"] = dict(prompt="cat face", **call, **short)
    return cases


def make_pipeline(dtype=torch.float32):
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(MODEL, torch_dtype=dtype, safety_checker=None, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    # diffusers' clip_skip asks for the final norm under a name that transformers 5 no longer has.
    object.__setattr__(pipe.text_encoder, "text_model", pipe.text_encoder)
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        assert {p.dtype for p in part.parameters()} == {dtype}
    return pipe


def set_up(pipe, case):
    import diffusers

    if wanted := case.get("scheduler"):
        pipe.scheduler = getattr(diffusers, wanted["class"]).from_config(pipe.scheduler.config, **wanted["config"])
    adapters = case.get("adapters", [])
    for a in adapters:
        pipe.load_lora_weights(str(LORAS), weight_name=a["file"], adapter_name=a["adapter_name"])
    if adapters:
        active = [a for a in adapters if a["adapter_name"] in case.get("active", [b["adapter_name"] for b in adapters])]
        pipe.set_adapters([a["adapter_name"] for a in active], [a["weight"] for a in active])
    if case.get("fused"):
        pipe.fuse_lora(components=["unet", "text_encoder"], lora_scale=case.get("lora_scale", 1.0))


def draw(case, inputs):
    """(images, latents after each step)"""
    case = {**DEFAULTS, **case}
    pipe, steps = make_pipeline(), []
    set_up(pipe, case)
    seeds = case.pop("seed")
    one = lambda seed: torch.Generator().manual_seed(seed)
    arguments = {k: v for k, v in case.items() if k not in ("scheduler", "adapters", "active", "fused", "lora_scale")}
    if name := arguments.pop("latents", None):
        arguments["latents"] = inputs[name]

    def keep(pipe, step, timestep, values):
        steps.append(values["latents"].clone())
        return values

    generator = [one(s) for s in seeds] if isinstance(seeds, list) else one(seeds)
    images = pipe(generator=generator, callback_on_step_end=keep, output_type="pil", **arguments).images
    return torch.from_numpy(np.stack([np.asarray(i) for i in images])), steps


def one_step(out):
    """One call of the UNet, base and with a LoRA, in float32 and in bfloat16: how far apart the two may be."""
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(MODEL / "tokenizer")
    tokens = tokenizer("red apple", padding="max_length", return_tensors="pt").input_ids
    sample, timestep = normal("one step", (1, 4, 16, 16)), torch.tensor([681])
    out["one_step.sample"], out["one_step.timestep"], out["one_step.input_ids"] = sample, timestep, tokens
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        pipe = make_pipeline(dtype)
        with torch.no_grad():
            states = pipe.text_encoder(tokens)[0]
            run = lambda: pipe.unet(sample.to(dtype), timestep, states).sample.float()
            out[f"one_step.{name}.text_encoder"], out[f"one_step.{name}.unet"] = states.float(), run()
            pipe.load_lora_weights(str(LORAS), weight_name="neon.safetensors", adapter_name="neon")
            out[f"one_step.{name}.unet.neon"] = run()
            pipe.fuse_lora(components=["unet"])
            out[f"one_step.{name}.unet.neon fused"] = run()
    for what in ("text_encoder", "unet", "unet.neon", "unet.neon fused"):
        half, full = out[f"one_step.bfloat16.{what}"], out[f"one_step.float32.{what}"]
        print(f"bfloat16 against float32, {what}: {relative(half, full):.1e}")


def main():
    check_versions()
    quiet()
    shutil.rmtree(OUT, ignore_errors=True)
    expected = {"inputs.latents": normal("latents", (1, 4, 16, 16))}
    rows = []
    for name, case in make_cases().items():
        images, steps = draw(case, expected)
        same = name.removesuffix(" kohya")
        if same != name:  # both spellings hold the same numbers, and alphas equal to the ranks
            assert (images.int() - expected[f"{same}.images"].int()).abs().max() <= 1, name
            assert relative(steps[-1], expected[f"{same}.latents"]) < 1e-5, name
        else:
            expected[f"{name}.images"], expected[f"{name}.latents"] = images, steps[-1]
        assert torch.isfinite(steps[-1]).all(), name
        rows.append(dict(name=name, **case, outputs=dict(images=f"{same}.images", latents=f"{same}.latents")))
        if name == "base":
            expected["base.steps"] = torch.stack(steps)
            rows[-1]["outputs"]["steps"] = "base.steps"
    one_step(expected)
    save_tensors(expected, OUT / "expected.safetensors")
    table = dict(
        model="models/tiny",
        loras="models/loras",
        defaults=DEFAULTS,
        pixel_tolerance=1,
        latent_tolerance=5e-5,
        cases=rows,
    )
    save_json(table, OUT / "cases.json")
    print(f"{len(rows)} cases;", sizes(OUT))


if __name__ == "__main__":
    main()
