"""Makes tests/data/models/sd3*: configs of tiny SD3Transformer2DModels and what diffusers computes with them.

    python tools/reference/make_sd3.py

Weights and inputs follow from their names (tiny.py), so that only outputs are stored.
"""

import json
from pathlib import Path

import torch
from diffusers import SD3Transformer2DModel
from safetensors.torch import save_file

from common import quiet
from tiny import fill, input_tensor, shape_tree

DATA = Path(__file__).resolve().parents[2] / "tests" / "data" / "models"

TINY = {"sample_size": 8, "patch_size": 2, "in_channels": 4, "out_channels": 4, "num_layers": 3,
        "attention_head_dim": 8, "num_attention_heads": 2, "caption_projection_dim": 16, "joint_attention_dim": 12,
        "pooled_projection_dim": 10, "pos_embed_max_size": 6}

CONFIGS = {
    # As little as the config of SD 3 says, which is older than qk_norm and dual_attention_layers.
    "sd3": TINY,
    "sd35_medium": {**TINY, "dual_attention_layers": [0, 1], "qk_norm": "rms_norm", "pos_embed_max_size": 7},
    "sd35_large": {**TINY, "dual_attention_layers": [], "qk_norm": "rms_norm", "num_attention_heads": 3,
                   "caption_projection_dim": 24},
    # Every other field away from its default, and a last block that attends twice.
    "unusual": {**TINY, "patch_size": 3, "in_channels": 5, "out_channels": None, "num_layers": 2,
                "dual_attention_layers": [1, 9]},
}

RUNS = {
    "sd3": {"two": {"batch": 2, "size": [8, 8], "timestep": [999, 17]},
            "wide": {"batch": 1, "size": [6, 10], "timestep": 500},
            "tall": {"batch": 2, "size": [12, 2], "timestep": 62.5},
            "skipped": {"batch": 1, "size": [8, 8], "timestep": 500, "skip_layers": [1]}},
    "sd35_medium": {"two": {"batch": 2, "size": [8, 12], "timestep": [999.5, 17.25]},
                    "skipped": {"batch": 1, "size": [8, 8], "timestep": 500, "skip_layers": [2, 0]},
                    "all_skipped": {"batch": 1, "size": [4, 4], "timestep": 500, "skip_layers": [0, 1, 2]}},
    "sd35_large": {"two": {"batch": 2, "size": [8, 8], "timestep": [1000, 0]}},
    "unusual": {"one": {"batch": 1, "size": [9, 15], "timestep": 42}},
}
HALVES = ["bfloat16", "float16"]

FULL = {"sample_size": 128, "patch_size": 2, "in_channels": 16, "out_channels": 16, "attention_head_dim": 64,
        "joint_attention_dim": 4096, "pooled_projection_dim": 2048}
FULL_SIZE = {
    "sd3_medium": {**FULL, "num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536,
                   "pos_embed_max_size": 192},
    "sd35_medium": {**FULL, "num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536,
                    "pos_embed_max_size": 384, "dual_attention_layers": list(range(13)), "qk_norm": "rms_norm"},
    "sd35_large": {**FULL, "num_layers": 38, "num_attention_heads": 38, "caption_projection_dim": 2432,
                   "pos_embed_max_size": 192, "dual_attention_layers": [], "qk_norm": "rms_norm"},
}


def run(model, config, label, spec, dtype):
    def given(name, *shape):
        return input_tensor(f"{label}.{name}", shape).to(dtype)

    batch, timestep = spec["batch"], torch.tensor(spec["timestep"])
    with torch.inference_mode():
        return model.to(dtype)(
            hidden_states=given("hidden_states", batch, config["in_channels"], *spec["size"]),
            encoder_hidden_states=given("encoder_hidden_states", batch, 5, config["joint_attention_dim"]),
            pooled_projections=given("pooled_projections", batch, config["pooled_projection_dim"]),
            timestep=timestep if timestep.dim() else timestep.expand(batch),
            skip_layers=spec.get("skip_layers"),
        ).sample.contiguous()


def case_of(model, config, **more):
    layers = shape_tree(model)
    layers["pos_embed"]["pos_embed"] = list(model.pos_embed.pos_embed.shape)  # a buffer, stored with the parameters
    return {"config": config, "layers": layers, **more}


def main():
    quiet()
    cases, outputs = {}, {}
    for name, config in CONFIGS.items():
        model = SD3Transformer2DModel(**config)
        cases[name] = case_of(model, config, runs=RUNS[name])
        for label, spec in RUNS[name].items():
            outputs[f"{name}.{label}"] = run(fill(model.float()), config, f"{name}.{label}", spec, torch.float32)
            for half in HALVES if label == "two" else []:
                dtype = getattr(torch, half)
                outputs[f"{name}.{label}.{half}"] = run(fill(model.float()), config, f"{name}.{label}", spec, dtype)
    (DATA / "sd3_cases.json").write_text(json.dumps(cases, separators=(",", ":")) + "\n")
    save_file(outputs, DATA / "sd3_outputs.safetensors")

    trees = {}
    for name, config in FULL_SIZE.items():
        with torch.device("meta"):
            trees[name] = case_of(SD3Transformer2DModel(**config), config)
    (DATA / "sd3_full_size.json").write_text(json.dumps(trees, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
