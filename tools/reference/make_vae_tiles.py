"""Makes tests/data/models/vae_tiles*: what diffusers' AutoencoderKL makes of images in tiles.

    python tools/reference/make_vae_tiles.py

The weights and inputs are those of make_vae.py's kind. Large results are stored in part.
"""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from diffusers.utils import logging
from safetensors.torch import save_file

from make_vae import CASES, config
from tiny import fill, input_tensor, shape_tree

DATA = Path(__file__).resolve().parents[2] / "tests" / "data" / "models"

# `tile` and `overlap` are diffusers' attributes; without them, they follow from the config. `step` is of what is stored.
TILES = {
    "sd": {"config": CASES["sd"]["config"], "pixels": [2, 3, 38, 26]},
    "sd_small": {"config": CASES["sd"]["config"], "pixels": [1, 3, 20, 34], "tile": 8, "overlap": 0.5},
    # The only one in bfloat16 too: of tiles that are a few pixels wide, libtorch's convolutions can make NaN.
    "sd3": {"config": CASES["sd3"]["config"], "pixels": [1, 3, 44, 60], "tile": 32, "overlap": 0.25},
    "apart": {"config": CASES["sd"]["config"], "pixels": [1, 3, 20, 34], "tile": 8, "overlap": 0.0},
    # The sizes of published models, with few channels.
    "full_size": {
        "config": config([4, 4, 4, 4], layers_per_block=1, norm_num_groups=2, sample_size=512),
        "pixels": [1, 3, 1024, 768],
        "step": [17, 13],
    },
}


@torch.inference_mode()
def main():
    logging.set_verbosity_error()
    cases, outputs = {}, {}
    for name, case in TILES.items():
        model = fill(AutoencoderKL(**case["config"]))
        cases[name] = {**case, "layers": shape_tree(model)}
        model.enable_tiling()
        if "tile" in case:
            model.tile_sample_min_size = case["tile"]
            model.tile_latent_min_size = case["tile"] // 2 ** (len(case["config"]["block_out_channels"]) - 1)
            model.tile_overlap_factor = case["overlap"]
        rows, columns = case.get("step", [1, 1])
        for dtype in (torch.float32, torch.bfloat16) if name == "sd3" else (torch.float32,):
            model = model.to(dtype)
            posterior = model.encode(input_tensor(f"{name}.pixels", case["pixels"]).to(dtype)).latent_dist
            latents = input_tensor(f"{name}.latents", tuple(posterior.mean.shape)).to(dtype)
            results = {"mean": posterior.mean, "logvar": posterior.logvar, "decoded": model.decode(latents).sample}
            for key, value in results.items():
                outputs[f"{name}.{str(dtype)[6:]}.{key}"] = value[:, :, ::rows, ::columns].contiguous()
    (DATA / "vae_tiles_cases.json").write_text(json.dumps(cases, separators=(",", ":")) + "\n")
    save_file(outputs, DATA / "vae_tiles_outputs.safetensors")


if __name__ == "__main__":
    main()
