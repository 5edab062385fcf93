"""Makes tests/data/models/unet*: configs of tiny UNets and what diffusers computes with them.

    python tools/reference/make_unet.py

Weights and inputs follow from their names (tiny.py), so that only outputs are stored; three models are stored whole,
as diffusers saves them.
"""

import json
import shutil
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from diffusers.utils import logging
from safetensors.torch import save_file

from tiny import fill, input_tensor, shape_tree

DATA = Path(__file__).resolve().parents[2] / "tests" / "data" / "models"

CROSS = ["CrossAttnDownBlock2D", "CrossAttnUpBlock2D"]
PLAIN = ["DownBlock2D", "UpBlock2D"]


def blocks(kinds):
    return {
        "down_block_types": [kind[0] for kind in kinds],
        "up_block_types": [kind[1] for kind in reversed(kinds)],
    }


TWO = {"block_out_channels": [8, 16], "norm_num_groups": 4, "layers_per_block": 1, "cross_attention_dim": 16}
THREE = {**TWO, "block_out_channels": [8, 16, 16]}

CONFIGS = {
    # As little as the oldest published configs say.
    "sd1": {**TWO, **blocks([CROSS, PLAIN]), "attention_head_dim": 4, "sample_size": 8, "act_fn": "silu",
            "center_input_sample": False, "downsample_padding": 1, "flip_sin_to_cos": True, "freq_shift": 0,
            "in_channels": 4, "mid_block_scale_factor": 1, "norm_eps": 1e-5, "out_channels": 4},
    "sd2": {**TWO, **blocks([CROSS, PLAIN]), "attention_head_dim": [2, 4], "use_linear_projection": True,
            "upcast_attention": True, "dual_cross_attention": False, "only_cross_attention": False},
    "sd2_no_upcast": {**THREE, **blocks([CROSS, CROSS, PLAIN]), "attention_head_dim": [1, 2, 4],
                      "use_linear_projection": True, "upcast_attention": False},
    "sdxl": {**TWO, **blocks([PLAIN, CROSS]), "attention_head_dim": [2, 4], "use_linear_projection": True,
             "transformer_layers_per_block": [1, 2], "addition_embed_type": "text_time",
             "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 64},
    "refiner": {**THREE, "block_out_channels": [8, 16, 16, 16], **blocks([PLAIN, CROSS, CROSS, PLAIN]),
                "attention_head_dim": [1, 2, 4, 4], "use_linear_projection": True, "transformer_layers_per_block": 2,
                "addition_embed_type": "text_time", "addition_time_embed_dim": 8,
                "projection_class_embeddings_input_dim": 56},
    "no_mid": {**THREE, **blocks([PLAIN, CROSS, CROSS]), "attention_head_dim": 2, "use_linear_projection": True,
               "mid_block_type": None, "transformer_layers_per_block": [1, [2], [1]],
               "reverse_transformer_layers_per_block": [[1, 2], [1, 0], 1]},
    "plain_mid": {**THREE, **blocks([CROSS, CROSS, CROSS]), "attention_head_dim": 2,
                  "mid_block_type": "UNetMidBlock2D", "mid_block_scale_factor": 1.5, "layers_per_block": [1, 2, 1]},
    "inpaint": {**TWO, **blocks([CROSS, PLAIN]), "attention_head_dim": 2, "in_channels": 9},
    "lcm": {**TWO, **blocks([CROSS, PLAIN]), "attention_head_dim": 2, "time_cond_proj_dim": 12},
    # Every other field away from its default.
    "unusual": {**TWO, "down_block_types": ["UNetResCrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
                "up_block_types": ["CrossAttnUpBlock2D", "UNetResCrossAttnUpBlock2D"],
                "attention_head_dim": 2, "only_cross_attention": [True, False], "mid_block_only_cross_attention": True,
                "center_input_sample": True, "flip_sin_to_cos": False, "freq_shift": 1, "downsample_padding": 0,
                "mid_block_scale_factor": 1.414, "act_fn": "mish", "norm_eps": 1e-3, "norm_num_groups": 2,
                "resnet_time_scale_shift": "scale_shift", "time_embedding_dim": 24, "conv_in_kernel": 1,
                "conv_out_kernel": 5, "timestep_post_act": "gelu", "time_embedding_act_fn": "relu", "out_channels": 3,
                "dropout": 0.1, "cross_attention_dim": [16, 16], "layers_per_block": [1, 1]},
}

RUNS = {
    "sd1": {"two": {"batch": 2, "size": [8, 8], "timestep": [3, 981]},
            "odd": {"batch": 1, "size": [9, 7], "timestep": 500},
            "fraction": {"batch": 2, "size": [4, 6], "timestep": 17.625},
            "mask": {"batch": 2, "size": [6, 4], "timestep": [1, 2], "masked": True},
            "bfloat16": {"batch": 2, "size": [8, 8], "timestep": [3, 981], "dtype": "bfloat16"}},
    "sd2": {"one": {"batch": 1, "size": [6, 10], "timestep": 999}},
    "sd2_no_upcast": {"odd": {"batch": 1, "size": [10, 14], "timestep": 250},
                      "odder": {"batch": 2, "size": [9, 7], "timestep": [0, 7]}},
    "sdxl": {"two": {"batch": 2, "size": [8, 6], "timestep": 42, "text_embeds": 16, "time_ids": 6},
             "bfloat16": {"batch": 2, "size": [8, 6], "timestep": 42, "text_embeds": 16, "time_ids": 6,
                          "dtype": "bfloat16"}},
    "refiner": {"two": {"batch": 2, "size": [8, 8], "timestep": 42, "text_embeds": 16, "time_ids": 5}},
    "no_mid": {"one": {"batch": 1, "size": [8, 4], "timestep": 42}},
    "plain_mid": {"one": {"batch": 1, "size": [8, 4], "timestep": 42}},
    "inpaint": {"one": {"batch": 1, "size": [8, 4], "timestep": 42}},
    "lcm": {"conditioned": {"batch": 2, "size": [8, 4], "timestep": 42, "timestep_cond": 12},
            "bare": {"batch": 1, "size": [8, 4], "timestep": 42}},
    "unusual": {"one": {"batch": 1, "size": [8, 4], "timestep": 42},
                "odd": {"batch": 1, "size": [7, 5], "timestep": 42}},
}

# Stored whole: the dtype in the file, and the variant in its name.
SAVED = {"sd1": ("float32", None), "sd2": ("bfloat16", None), "sdxl": ("float16", "fp16")}

FULL_SIZE = {
    "sd15": {"sample_size": 64, "cross_attention_dim": 768},
    "sd21": {"sample_size": 96, "cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20],
             "use_linear_projection": True, "upcast_attention": True},
    "sdxl": {"sample_size": 128, "cross_attention_dim": 2048, "attention_head_dim": [5, 10, 20],
             "block_out_channels": [320, 640, 1280], **blocks([PLAIN, CROSS, CROSS]), "use_linear_projection": True,
             "transformer_layers_per_block": [1, 2, 10], "addition_embed_type": "text_time",
             "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816},
}


def run(model, config, label, spec):
    dtype = getattr(torch, spec.get("dtype", "float32"))
    batch, tokens = spec["batch"], 5

    def given(name, *shape):
        return input_tensor(f"{label}.{name}", shape).to(dtype)

    kwargs, added = {}, {}
    if "timestep_cond" in spec:
        kwargs["timestep_cond"] = given("timestep_cond", batch, spec["timestep_cond"])
    if "masked" in spec:
        kwargs["encoder_attention_mask"] = (input_tensor(f"{label}.mask", (batch, tokens)) > 0).long()
    if "text_embeds" in spec:
        added = {
            "text_embeds": given("text_embeds", batch, spec["text_embeds"]),
            "time_ids": (input_tensor(f"{label}.time_ids", (batch, spec["time_ids"])) * 500).round().to(dtype),
        }
    timestep = spec["timestep"]
    timestep = torch.tensor(timestep) if isinstance(timestep, list) else timestep
    sample = given("sample", batch, config.get("in_channels", 4), *spec["size"])
    context = given("context", batch, tokens, 16)
    with torch.inference_mode():
        return model.to(dtype)(sample, timestep, context, added_cond_kwargs=added, **kwargs).sample


def main():
    logging.set_verbosity_error()
    cases, outputs = {}, {}
    shutil.rmtree(DATA / "unet", ignore_errors=True)
    for name, config in CONFIGS.items():
        model = fill(UNet2DConditionModel(**config))
        cases[name] = {"config": config, "layers": shape_tree(model), "runs": RUNS[name]}
        for label, spec in RUNS[name].items():
            outputs[f"{name}.{label}"] = run(fill(model.float()), config, f"{name}.{label}", spec).contiguous()
            if "dtype" in spec:  # how far rounding alone takes the reference from itself
                exact = {k: v for k, v in spec.items() if k != "dtype"}
                outputs[f"{name}.{label}.float32"] = run(fill(model.float()), config, f"{name}.{label}", exact)
        if name in SAVED:
            dtype, variant = SAVED[name]
            model = fill(model.float()).to(getattr(torch, dtype))
            model.save_pretrained(DATA / "unet" / name, variant=variant)
            label, spec = next(iter(RUNS[name].items()))
            outputs[f"{name}.saved"] = run(model, config, f"{name}.{label}", spec).contiguous()
    (DATA / "unet_cases.json").write_text(json.dumps(cases, separators=(",", ":")) + "\n")
    save_file(outputs, DATA / "unet_outputs.safetensors")

    trees = {}
    for name, config in FULL_SIZE.items():
        with torch.device("meta"):
            trees[name] = {"config": config, "layers": shape_tree(UNet2DConditionModel(**config))}
    (DATA / "unet_full_size.json").write_text(json.dumps(trees, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
