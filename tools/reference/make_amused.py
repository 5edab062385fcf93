"""Makes tests/data/models/{uvit,vq}*: configs of tiny UVit2DModels and VQModels and what diffusers computes with them.

    python tools/reference/make_amused.py

As make_unet.py does it.
"""

import json
from pathlib import Path

import torch
from diffusers import UVit2DModel, VQModel
from diffusers.utils import logging
from safetensors.torch import save_file

from tiny import fill, input_tensor, shape_tree, tokens

DATA = Path(__file__).resolve().parents[2] / "tests" / "data" / "models"
DTYPES = (torch.float32, torch.bfloat16, torch.float16)

UVIT = {"hidden_size": 24, "cond_embed_dim": 10, "micro_cond_encode_dim": 8, "micro_cond_embed_dim": 40,
        "encoder_hidden_size": 14, "vocab_size": 40, "codebook_size": 32, "in_channels": 12, "block_out_channels": 16,
        "num_res_blocks": 2, "block_num_heads": 2, "num_hidden_layers": 2, "num_attention_heads": 3,
        "intermediate_size": 20, "sample_size": 4}

UVIT_CASES = {
    "256": {"config": UVIT, "runs": {"two": [2, 4, 4], "odd": [1, 5, 3]}},
    "512": {"config": {**UVIT, "downsample": True, "upsample": True, "num_res_blocks": 1},
            "runs": {"two": [2, 4, 6], "square": [1, 4, 4]}},
    # Without a layer that maps the context to the blocks' width, and other sizes away from the published proportions.
    "equal": {"config": {**UVIT, "block_out_channels": 24, "block_num_heads": 3, "num_hidden_layers": 1,
                         "micro_cond_encode_dim": 5, "micro_cond_embed_dim": 10, "layer_norm_eps": 1e-3},
              "runs": {"two": [2, 2, 3]}},
}

UVIT_FULL_SIZE = {
    "amused_256": {"sample_size": 16},
    "amused_512": {"sample_size": 32, "downsample": True, "upsample": True},
}


def vq(channels, **more):
    n = len(channels)
    return {"block_out_channels": channels, "down_block_types": ["DownEncoderBlock2D"] * n,
            "up_block_types": ["UpDecoderBlock2D"] * n, **more}


VQ_CASES = {
    "amused": {"config": vq([8, 12, 16], layers_per_block=2, norm_num_groups=4, latent_channels=6, sample_size=32,
                            num_vq_embeddings=32, mid_block_add_attention=False, lookup_from_codebook=True,
                            act_fn="silu", scaling_factor=0.18215, norm_type="group", vq_embed_dim=None,
                            force_upcast=True),
               "pixels": [2, 3, 12, 20]},
    "attention": {"config": vq([8, 8], norm_num_groups=2, latent_channels=6, vq_embed_dim=4, num_vq_embeddings=24,
                               in_channels=1, out_channels=2),
                  "pixels": [1, 1, 6, 10]},
}

VQ_FULL_SIZE = {
    "amused": vq([128, 256, 256, 512, 768], layers_per_block=2, norm_num_groups=32, latent_channels=64, sample_size=32,
                 num_vq_embeddings=8192, mid_block_add_attention=False, lookup_from_codebook=True, act_fn="silu"),
}


def run_uvit(model, config, label, shape, dtype):
    n, micro_conds = shape[0], config["micro_cond_embed_dim"] // config["micro_cond_encode_dim"]
    context = input_tensor(f"{label}.context", (n, 7, config["encoder_hidden_size"])).to(dtype)
    pooled = input_tensor(f"{label}.pooled", (n, config["cond_embed_dim"])).to(dtype)
    sizes = tokens(f"{label}.sizes", (n, micro_conds), 512).float()  # bfloat16 would not hold them all
    with torch.inference_mode():
        return model.to(dtype)(tokens(f"{label}.ids", shape, config["vocab_size"]), context, pooled, sizes)


def make_uvit():
    cases, outputs = {}, {}
    for name, case in UVIT_CASES.items():
        model = UVit2DModel(**case["config"])
        cases[name] = {**case, "layers": shape_tree(model)}
        for run, shape in case["runs"].items():
            label = f"{name}.{run}"
            for dtype in DTYPES:
                made = run_uvit(fill(model.float()), case["config"], label, shape, dtype)
                outputs[f"{label}.{str(dtype)[6:]}"] = made.contiguous()
    write("uvit", cases, outputs, {name: (UVit2DModel, config) for name, config in UVIT_FULL_SIZE.items()})


def run_vq(model, name, case, dtype):
    model = fill(model.float()).to(dtype)
    pixels = input_tensor(f"{name}.pixels", case["pixels"]).to(dtype)
    with torch.inference_mode():
        latents = model.encode(pixels).latents
        n, width, h, w = latents.shape
        if dtype == torch.float32:  # half types have no cdist on the CPU
            found = model.quantize(latents)[2][2].reshape(n, h, w)
            both = {"tokens": found, "round": model.decode(latents).sample}
        else:
            both = {}
        picked = tokens(f"{name}.tokens", (n, h, w), case["config"]["num_vq_embeddings"])
        entries = model.quantize.get_codebook_entry(picked, (n, h, w, width))
        lookup = model.config.lookup_from_codebook
        decoded = (model.decode(picked, force_not_quantize=True, shape=(n, h, w, width)) if lookup
                   else model.decode(entries, force_not_quantize=True)).sample
        return {**both, "decoded": decoded}


def make_vq():
    cases, outputs = {}, {}
    for name, case in VQ_CASES.items():
        model = VQModel(**case["config"])
        cases[name] = {**case, "layers": shape_tree(model)}
        for dtype in DTYPES:
            for key, value in run_vq(model, name, case, dtype).items():
                outputs[f"{name}.{str(dtype)[6:]}.{key}"] = value.contiguous()
    write("vq", cases, outputs, {name: (VQModel, config) for name, config in VQ_FULL_SIZE.items()})


def write(kind, cases, outputs, full_size):
    trees = {}
    for name, (model, config) in full_size.items():
        with torch.device("meta"):
            trees[name] = {"config": config, "layers": shape_tree(model(**config))}
    (DATA / f"{kind}_cases.json").write_text(json.dumps(cases, separators=(",", ":")) + "\n")
    (DATA / f"{kind}_full_size.json").write_text(json.dumps(trees, separators=(",", ":")) + "\n")
    save_file(outputs, DATA / f"{kind}_outputs.safetensors")


def main():
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    make_uvit()
    make_vq()


if __name__ == "__main__":
    main()
