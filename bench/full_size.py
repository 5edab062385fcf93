#!/usr/bin/env python3
"""One call of SDXL's UNet at its full size in bfloat16, here and in diffusers, on the models that make_models.py wrote.

    python bench/full_size.py build/bench build/lora

Prints how far the outputs are apart, and the most memory that the command took over the size of the file.
"""
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

SIDE = 16  # of the latents


def relative(a, b):
    return ((a.double() - b.double()).abs().max() / b.double().abs().max()).item()


@torch.inference_mode()
def main():
    from diffusers import UNet2DConditionModel

    model, command = Path(sys.argv[1]) / "sdxl-bfloat16", sys.argv[2]
    generator = torch.Generator().manual_seed(0)
    random = lambda *shape: torch.randn(shape, generator=generator)
    inputs = {
        "sample": random(1, 4, SIDE, SIDE),
        "timestep": torch.tensor([500.0]),
        "encoder_hidden_states": random(1, 77, 2048),
        "text_embeds": random(1, 1280),
        "time_ids": torch.tensor([[256.0, 256, 0, 0, 256, 256]]),
    }
    with tempfile.TemporaryDirectory() as folder:
        save_file(inputs, f"{folder}/in.safetensors")
        arguments = ["forward", model, "--component", "unet", "--dtype", "bfloat16"]
        subprocess.run([command, *arguments, "--inputs", f"{folder}/in.safetensors", "-o", f"{folder}/out.safetensors"], check=True)
        ours = load_file(f"{folder}/out.safetensors")["sample"]
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024

    unet = UNet2DConditionModel.from_pretrained(model / "unet", torch_dtype=torch.bfloat16)

    cast = {k: v.bfloat16() for k, v in inputs.items()}
    sizes = {k: cast[k] for k in ("text_embeds", "time_ids")}
    theirs = unet(cast["sample"], 500, cast["encoder_hidden_states"], added_cond_kwargs=sizes).sample
    size = os.path.getsize(model / "unet" / "diffusion_pytorch_model.safetensors")
    row = {
        "name": "SDXL UNet, bfloat16",
        "distance from diffusers": relative(ours, theirs),
        "peak memory over the UNet's file": round(peak / size, 3),
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main()
