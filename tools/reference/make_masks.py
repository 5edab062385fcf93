#!/usr/bin/env python3
"""Writes tests/data/masks: what tiny UNets, SD3Transformers and UVits give with an adapter that a mask confines to a
part of the image.

    python tools/reference/make_masks.py

A mask is [H, W] over the latent image. The adapter has rank 2, scale 1 and a place on every Linear and every ungrouped
Conv2d, and a layer gives W x + b + m * B A x. What a layer sees decides m:

    picture   tokens or features of an h x w map: the mask averaged down to h x w, each place with its own value; of a
              convolution, the places of its output
    text      tokens of the text: the mean of the mask
    none      a vector without places, as time embeddings and modulations: the mean of the mask

The tables below say what each layer sees, not the number of its tokens: most cases have as many tokens of text as of
some map. A run with another number of text tokens, and a model with W + BA in place of W under a mask of ones, check
both the tables and the formula. Everything is computed in float64. Models are cases of tests/data/models; weights,
factors and inputs follow from names (tiny.py), so that only outputs are stored.

In cases.json a case says
    "models", "case"   the file in tests/data/models and the case in it that hold the config and the layers
    "inputs"           the model's arguments by name: "values" are given as they are; else the numbers are from "make",
                       `input` or `tokens` below "count", for the name <case>.<argument>; times "times" and rounded
                       where that is there
    "mask"             [H, W]. The random mask is (noise + 1) / 2 of the name <case>.mask, as float32
    "left"             the columns, from the left, where the mask "left" is 1; elsewhere it is 0
    "maps"             the sizes of the maps that tokens can be of
    "factor"           A is it times `weight` of <layer>.lora_A.weight, [2, in, ...], in float32; B it times that of
                       <layer>.lora_B.weight, [out, 2, ...]
    "layers"           each adapted layer, and what it sees

and expected.safetensors holds `<case>.<run>`, run being base (no adapter), all (no mask), random or left.
"""

import copy
import re

import torch
from common import DATA, check_versions, quiet, relative, save_json, save_tensors, sizes
from diffusers import SD3Transformer2DModel, UNet2DConditionModel, UVit2DModel
from diffusers.models.normalization import RMSNorm
from make_amused import UVIT_CASES
from make_sd3 import CONFIGS as SD3_CONFIGS
from make_unet import CONFIGS as UNET_CONFIGS
from tiny import fill, input_tensor, noise, tokens, weight
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d, conv2d, linear

OUT = DATA / "masks"
RANK, FACTOR = 2, 0.7

# ---- What each layer sees --------------------------------------------------------------------------------------------

ATTENTION = r"(to_[qkv]|to_out\.0)"
FEED_FORWARD = r"ff\.net\.(0\.proj|2)"

UNET = {
    "picture": [r"conv_in|conv_out",
                r".*\.resnets\.\d+\.(conv1|conv2|conv_shortcut)",
                r".*\.(down|up)samplers\.0\.conv",
                r".*\.attentions\.\d+\.(proj_in|proj_out)",
                rf".*\.transformer_blocks\.\d+\.attn1\.{ATTENTION}",
                r".*\.transformer_blocks\.\d+\.attn2\.(to_q|to_out\.0)",
                rf".*\.transformer_blocks\.\d+\.{FEED_FORWARD}"],
    "text": [r".*\.transformer_blocks\.\d+\.attn2\.(to_k|to_v)"],
    "none": [r"(time|add)_embedding\.(linear_1|linear_2|cond_proj)",
             r".*\.resnets\.\d+\.time_emb_proj"],
}
# With only_cross_attention the first attention asks the text too, in the blocks that have it; the middle block never
# does, whatever mid_block_only_cross_attention says.
UNET_ONLY_CROSS = {
    **UNET,
    "picture": [*UNET["picture"][:4],
                rf"(down_blocks\.1|mid_block|up_blocks\.0)\..*\.attn1\.{ATTENTION}",
                r"(down_blocks\.0|up_blocks\.1)\..*\.attn1\.(to_q|to_out\.0)",
                *UNET["picture"][5:]],
    "text": [*UNET["text"], r"(down_blocks\.0|up_blocks\.1)\..*\.attn1\.(to_k|to_v)"],
}

SD3 = {
    "picture": [r"pos_embed\.proj|proj_out",
                rf"transformer_blocks\.\d+\.attn2?\.{ATTENTION}",
                rf"transformer_blocks\.\d+\.{FEED_FORWARD}"],
    "text": [r"context_embedder",
             r"transformer_blocks\.\d+\.attn\.(add_[qkv]_proj|to_add_out)",
             r"transformer_blocks\.\d+\.ff_context\.net\.(0\.proj|2)"],
    "none": [r"time_text_embed\.(timestep|text)_embedder\.linear_[12]",
             r"transformer_blocks\.\d+\.(norm1|norm1_context)\.linear",
             r"norm_out\.linear"],
}

# In down_block and up_block both attentions ask the text; in a transformer layer the first asks the picture.
UVIT = {
    "picture": [r"embed\.conv|project_(to|from)_hidden|mlm_layer\.conv[12]",
                r"down_block\.downsample\.conv",
                r"(down|up)_block\.res_blocks\.\d+\.channelwise_linear_[12]",
                r"(down|up)_block\.attention_blocks\.\d+\.attn[12]\.(to_q|to_out\.0)",
                rf"transformer_layers\.\d+\.attn1\.{ATTENTION}",
                r"transformer_layers\.\d+\.attn2\.(to_q|to_out\.0)",
                rf"transformer_layers\.\d+\.{FEED_FORWARD}"],
    "text": [r"encoder_proj",
             r"(down|up)_block\.attention_blocks\.\d+\.(kv_mapper|attn[12]\.(to_k|to_v))",
             r"transformer_layers\.\d+\.attn2\.(to_k|to_v)"],
    "none": [r"cond_embed\.linear_[12]",
             r"(down|up)_block\.res_blocks\.\d+\.cond_embeds_mapper",
             r"transformer_layers\.\d+\.norm[123]\.linear"],
}


def seen_by(path, table):
    found = [kind for kind, patterns in table.items() for p in patterns if re.fullmatch(p, path)]
    assert len(found) == 1, (path, found)
    return found[0]


def map_of(path, maps):
    """The size of the map whose tokens a linear layer sees: those of the cases go from the finest to the coarsest."""
    if level := re.match(r"down_blocks\.(\d+)\.", path):
        return maps[int(level[1])]
    if level := re.match(r"up_blocks\.(\d+)\.", path):
        return maps[len(maps) - 1 - int(level[1])]
    return maps[-1]


# ---- The cases -------------------------------------------------------------------------------------------------------


def unet(case, size, maps, text, timestep, table=UNET, **more):
    config = UNET_CONFIGS[case]
    inputs = {"sample": {"make": "input", "shape": [2, config.get("in_channels", 4), *size]},
              "timestep": {"values": timestep},
              "context": {"make": "input", "shape": [2, text, 16]}, **more}
    return dict(model=UNet2DConditionModel, config=config, table=table,
                json={"models": "unet_cases.json", "case": case, "inputs": inputs, "mask": size, "maps": maps})


def sd3(case, size, maps, text, timestep):
    config = SD3_CONFIGS[case]
    inputs = {"hidden_states": {"make": "input", "shape": [2, config["in_channels"], *size]},
              "encoder_hidden_states": {"make": "input", "shape": [2, text, config["joint_attention_dim"]]},
              "pooled_projections": {"make": "input", "shape": [2, config["pooled_projection_dim"]]},
              "timestep": {"values": timestep}}
    return dict(model=SD3Transformer2DModel, config=config, table=SD3,
                json={"models": "sd3_cases.json", "case": case, "inputs": inputs, "mask": size, "maps": maps})


def uvit(case, size, maps, text):
    config = UVIT_CASES[case]["config"]
    micro_conds = config["micro_cond_embed_dim"] // config["micro_cond_encode_dim"]
    inputs = {"ids": {"make": "tokens", "shape": [2, *size], "count": config["vocab_size"]},
              "context": {"make": "input", "shape": [2, text, config["encoder_hidden_size"]]},
              "pooled": {"make": "input", "shape": [2, config["cond_embed_dim"]]},
              "sizes": {"make": "tokens", "shape": [2, micro_conds], "count": 512}}
    return dict(model=UVit2DModel, config=config, table=UVIT,
                json={"models": "uvit_cases.json", "case": case, "inputs": inputs, "mask": size, "maps": maps})


CASES = {
    "unet_sd1": unet("sd1", [8, 6], [[8, 6], [4, 3]], 12, [3, 981]),
    "unet_sd1_odd": unet("sd1", [7, 5], [[7, 5], [4, 3]], 35, [500, 20]),
    "unet_sdxl": unet("sdxl", [8, 6], [[8, 6], [4, 3]], 12, [42, 700],
                      text_embeds={"make": "input", "shape": [2, 16]},
                      time_ids={"make": "input", "shape": [2, 6], "times": 500}),
    "unet_three_maps": unet("sd2_no_upcast", [9, 14], [[9, 14], [5, 7], [3, 4]], 12, [250, 7]),
    "unet_lcm": unet("lcm", [4, 6], [[4, 6], [2, 3]], 5, [42, 43],
                     timestep_cond={"make": "input", "shape": [2, 12]}),
    "unet_only_cross": unet("unusual", [7, 5], [[7, 5], [3, 2]], 6, [42, 999], UNET_ONLY_CROSS),
    "sd3": sd3("sd3", [6, 8], [[3, 4]], 12, [999, 17]),
    "sd3_tall": sd3("sd3", [12, 4], [[6, 2]], 5, [500, 20]),
    "sd35_medium": sd3("sd35_medium", [8, 12], [[4, 6]], 24, [999.5, 17.25]),
    "sd3_thirds": sd3("unusual", [9, 15], [[3, 5]], 15, [42, 700]),
    "uvit_256": uvit("256", [3, 4], [[3, 4]], 12),
    "uvit_512": uvit("512", [4, 6], [[2, 3]], 6),
    "uvit_equal": uvit("equal", [2, 5], [[2, 5]], 7),
}

TEXT = {UNet2DConditionModel: "context", SD3Transformer2DModel: "encoder_hidden_states", UVit2DModel: "context"}


def make_input(name, spec):
    if "values" in spec:
        return torch.tensor(spec["values"])
    if spec["make"] == "tokens":
        return tokens(name, spec["shape"], spec["count"])
    made = input_tensor(name, spec["shape"])
    return (made * spec["times"]).round() if "times" in spec else made


def call(model, x):
    x = {k: v.double() if v.is_floating_point() and k != "timestep" else v for k, v in x.items()}
    with torch.inference_mode():
        if isinstance(model, SD3Transformer2DModel):
            return model(**x).sample
        if isinstance(model, UVit2DModel):
            return model(x["ids"], x["context"], x["pooled"], x["sizes"].double())
        added = {k: x[k] for k in ("text_embeds", "time_ids") if k in x}
        return model(x["sample"], x["timestep"], x["context"], timestep_cond=x.get("timestep_cond"),
                     added_cond_kwargs=added).sample


# ---- The adapter -----------------------------------------------------------------------------------------------------


def adapted(model):
    parameters = dict(model.named_parameters())
    layers = {}
    for path, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1):
            if path + ".weight" in parameters:  # of two names the one that is stored
                layers[path] = module
    return layers


def factors(path, module):
    out, *inner = module.weight.shape
    a = weight(path + ".lora_A.weight", (RANK, *inner)) * FACTOR
    b = weight(path + ".lora_B.weight", (out, RANK, *[1] * (len(inner) - 1))) * FACTOR
    return a.double(), b.double()


def low_rank(module, a, b, x):
    if isinstance(module, nn.Linear):
        return linear(linear(x, a), b)
    return conv2d(conv2d(x, a, None, module.stride, module.padding, module.dilation), b)


def at_places(mask, kind, path, module, y, maps):
    """The mask in a shape that multiplies y."""
    if kind != "picture":
        return mask.mean()
    h, w = y.shape[2:] if isinstance(module, nn.Conv2d) else map_of(path, maps)
    assert [h, w] in [*maps, list(mask.shape)], (path, h, w)
    small = adaptive_avg_pool2d(mask[None], (h, w))[0]
    if isinstance(module, nn.Conv2d):
        return small
    if y.dim() == 4:
        assert y.shape[1:3] == (h, w), (path, y.shape)
        return small[:, :, None]
    assert y.shape[1] == h * w, (path, y.shape)
    return small.reshape(h * w, 1)


def with_adapter(model, seen, mask, maps, x):
    """What the model gives with the adapter in the places of the mask."""

    def hook(path, module):
        a, b = factors(path, module)

        def add(module, args, y):
            return y + at_places(mask, seen[path], path, module, y, maps) * low_rank(module, a, b, args[0])

        return module.register_forward_hook(add)

    hooks = [hook(path, module) for path, module in adapted(model).items()]
    try:
        return call(model, x)
    finally:
        for h in hooks:
            h.remove()


def merged(model):
    model = copy.deepcopy(model)
    for path, module in adapted(model).items():
        a, b = factors(path, module)
        module.weight.data += (b.flatten(1) @ a.flatten(1)).reshape(module.weight.shape)
    return model


def check_tables(model, case, name, seen):
    """With a number of text tokens that no map has, the sizes of the inputs tell what a layer sees."""
    spec, maps = case["json"]["inputs"], case["json"]["maps"]
    text = 1 + max(h * w for h, w in maps)
    context = TEXT[case["model"]]
    n, _, width = spec[context]["shape"]
    x = {k: make_input(f"{name}.{k}", v) for k, v in spec.items()}
    x[context] = input_tensor(f"{name}.{context}", (n, text, width))
    found = {}

    def note(path):
        def keep(module, args, y):
            shape = args[0].shape
            if len(shape) < 3:
                found[path] = "none"
            else:
                found[path] = "text" if len(shape) == 3 and shape[1] == text else "picture"

        return keep

    hooks = [module.register_forward_hook(note(path)) for path, module in adapted(model).items()]
    call(model, x)
    for h in hooks:
        h.remove()
    assert found == seen, {k: (seen[k], found.get(k)) for k in seen if seen[k] != found.get(k)}


def exact_norm(self, x):
    """RMSNorm.forward, which diffusers computes in float32 whatever the model is in."""
    x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)
    return x if self.weight is None else x * self.weight


def make(name, case):
    model = fill(case["model"](**case["config"])).double()
    inputs, (h, w), maps = case["json"]["inputs"], case["json"]["mask"], case["json"]["maps"]
    seen = {path: seen_by(path, case["table"]) for path in adapted(model)}
    check_tables(model, case, name, seen)

    x = {k: make_input(f"{name}.{k}", v) for k, v in inputs.items()}
    masks = {"all": torch.ones(h, w).double(), "random": ((noise(f"{name}.mask", (h, w)) + 1) / 2).float().double(),
             "left": (torch.arange(w) < w // 2).double().expand(h, w)}
    theirs = call(model, x)
    RMSNorm.forward, forward = exact_norm, RMSNorm.forward
    try:
        outputs = {"base": call(model, x)}
        outputs |= {run: with_adapter(model, seen, mask, maps, x) for run, mask in masks.items()}
        fused = call(merged(model), x)
    finally:
        RMSNorm.forward = forward

    assert relative(outputs["base"], theirs) < 1e-6, name
    assert (outputs["all"] - fused).abs().max() < 1e-10, name
    runs = list(outputs)
    apart = min(relative(outputs[a], outputs[b]) for a in runs for b in runs if a != b)
    assert apart > 0.1, (name, apart)
    largest = {run: f"{y.abs().max().item():.2f}" for run, y in outputs.items()}
    print(f"{name}: {len(seen)} layers, the runs {apart:.2f} apart, largest values {largest}")

    told = {**case["json"], "left": w // 2, "factor": FACTOR, "layers": seen}
    return told, {f"{name}.{run}": y.float() for run, y in outputs.items()}


def main():
    quiet()
    check_versions()
    cases, expected = {}, {}
    for name, case in CASES.items():
        cases[name], outputs = make(name, case)
        expected |= outputs
    save_json(cases, OUT / "cases.json")
    save_tensors(expected, OUT / "expected.safetensors")
    print(sizes(OUT))


if __name__ == "__main__":
    main()
