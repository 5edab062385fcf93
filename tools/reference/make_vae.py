"""Makes tests/data/models/vae*: configs of tiny AutoencoderKLs and what diffusers computes with them.

    python tools/reference/make_vae.py

As make_unet.py does it. One model is stored whole, under the attention's names of before 2023.
"""

import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from diffusers.utils import logging
from safetensors.torch import save_file

from tiny import fill, input_tensor, shape_tree

DATA = Path(__file__).resolve().parents[2] / "tests" / "data" / "models"


def config(channels, **more):
    n = len(channels)
    return {
        "block_out_channels": channels,
        "down_block_types": ["DownEncoderBlock2D"] * n,
        "up_block_types": ["UpDecoderBlock2D"] * n,
        "norm_num_groups": 4,
        **more,
    }


CASES = {
    # As little as the oldest published configs say.
    "sd": {
        "config": config([8, 16], act_fn="silu", in_channels=3, latent_channels=4, layers_per_block=1, out_channels=3,
                         sample_size=16),
        "pixels": [2, 3, 8, 12],
    },
    "sd3": {
        "config": config([8, 12, 16], latent_channels=6, layers_per_block=2, use_quant_conv=False,
                         use_post_quant_conv=False, shift_factor=0.0609, scaling_factor=1.5305, force_upcast=False,
                         latents_mean=None, latents_std=None),
        "pixels": [1, 3, 10, 14],
    },
    "no_attention": {
        "config": config([8, 8], mid_block_add_attention=False, act_fn="gelu", in_channels=1, out_channels=2),
        "pixels": [1, 1, 6, 4],
    },
}

FULL = {"channels": [128, 256, 512, 512], "layers_per_block": 2, "norm_num_groups": 32}
FULL_SIZE = {
    "sd": config(**FULL, sample_size=512),
    "sd3": config(**FULL, sample_size=1024, latent_channels=16, use_quant_conv=False, use_post_quant_conv=False,
                  shift_factor=0.0609, scaling_factor=1.5305, force_upcast=True, latents_mean=None, latents_std=None),
}

OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def old_name(name):
    for new, old in OLD_NAMES.items():
        name = name.replace(f".{new}.", f".{old}.")
    return name


def run(model, name, pixels, dtype):
    model = fill(model.float()).to(dtype)
    with torch.inference_mode():
        posterior = model.encode(input_tensor(f"{name}.pixels", pixels).to(dtype)).latent_dist
        latents = input_tensor(f"{name}.latents", tuple(posterior.mean.shape)).to(dtype)
        return {
            "mean": posterior.mean,
            "logvar": posterior.logvar,
            "sample": posterior.sample(torch.Generator().manual_seed(5)),
            "decoded": model.decode(latents).sample,
        }


def main():
    logging.set_verbosity_error()
    cases, outputs = {}, {}
    for name, case in CASES.items():
        model = AutoencoderKL(**case["config"])
        cases[name] = {**case, "layers": shape_tree(model)}
        for dtype in (torch.float32, torch.bfloat16):
            for key, value in run(model, name, case["pixels"], dtype).items():
                outputs[f"{name}.{str(dtype)[6:]}.{key}"] = value.contiguous()
    (DATA / "vae_cases.json").write_text(json.dumps(cases, separators=(",", ":")) + "\n")
    save_file(outputs, DATA / "vae_outputs.safetensors")

    folder = DATA / "vae" / "sd"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    old = {"_class_name": "AutoencoderKL", "_diffusers_version": "0.2.2", **CASES["sd"]["config"]}
    (folder / "config.json").write_text(json.dumps(old, indent=2) + "\n")
    weights = fill(AutoencoderKL(**CASES["sd"]["config"])).state_dict()
    save_file({old_name(k): v for k, v in weights.items()}, folder / "diffusion_pytorch_model.safetensors")

    with torch.device("meta"):
        trees = {name: {"config": c, "layers": shape_tree(AutoencoderKL(**c))} for name, c in FULL_SIZE.items()}
    (DATA / "vae_full_size.json").write_text(json.dumps(trees, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
