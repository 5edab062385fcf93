"""Reference data for checkpoints in the original Stable Diffusion layout: tests/data/models/ldm/*.json, from diffusers.

For each of a few models: every tensor of the checkpoint with its shape, and for every tensor of the diffusers
components the checkpoint's tensor that it is a piece of, as diffusers' own converters have it. No weights are stored:
tensors are made up by the test.

    {"file": [[name, [sizes]]], "unet": {name: piece}, "vae": {…}, "text_encoder": {…}}

A piece is an index into `file`, or [index, first element, [sizes]] where it is not the whole as it is.

Run from anywhere: python tools/reference/make_ldm.py
"""

import json
import math
import pathlib
import re
from types import SimpleNamespace

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders import single_file_utils
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

OUT = pathlib.Path(__file__).resolve().parents[2] / "tests/data/models/ldm"

UNET_RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
               "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection"}  # fmt: skip
UNET_ENDS = {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
             "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"}  # fmt: skip
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
OPEN_CLIP = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
             "self_attn.out_proj": "attn.out_proj"}  # fmt: skip


def ldm_unet_name(name, config):
    """The original's name, counted out block by block: the inverse of what is under test."""
    path, tail = name.rsplit(".", 1)
    if path in UNET_ENDS:
        return f"{UNET_ENDS[path]}.{tail}"
    layers, levels = config["layers_per_block"], len(config["block_out_channels"])
    if m := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d)\.(.+)", path):
        kind, i, rest = m[1], int(m[2]), m[3]
        return f"middle_block.{2 * i}.{UNET_RESNET[rest]}.{tail}" if kind == "resnets" else f"middle_block.1.{rest}.{tail}"
    side, level, kind, i, rest = re.fullmatch(r"(down|up)_blocks\.(\d)\.(\w+)\.(\d)\.(.+)", path).groups()
    level, i = int(level), int(i)
    if side == "down":
        block = 1 + level * (layers + 1) + (layers if kind == "downsamplers" else i)
        inner = {"resnets": "0", "attentions": "1", "downsamplers": "0.op"}[kind]
        stem = f"input_blocks.{block}.{inner}"
    else:
        block = level * (layers + 1) + (layers if kind == "upsamplers" else i)
        has_attention = config["up_block_types"][level].startswith("CrossAttn")
        inner = {"resnets": "0", "attentions": "1", "upsamplers": "2.conv" if has_attention else "1.conv"}[kind]
        stem = f"output_blocks.{block}.{inner}"
    if kind == "resnets":
        return f"{stem}.{UNET_RESNET[rest]}.{tail}"
    return f"{stem}.{tail}" if kind.endswith("samplers") else f"{stem}.{rest}.{tail}"


def ldm_vae_name(name, levels):
    name = name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
    name = name.replace("mid_block.resnets.0", "mid.block_1").replace("mid_block.resnets.1", "mid.block_2")
    if "mid_block.attentions.0." in name:
        for ours, theirs in VAE_ATTENTION.items():
            name = name.replace(f"mid_block.attentions.0.{ours}.", f"mid.attn_1.{theirs}.")
    name = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d)\.resnets", lambda m: f"up.{levels - 1 - int(m[1])}.block", name)
    return re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", name)


def ldm_file(unet, vae, text, v2):
    """Names and shapes of the checkpoint that holds these three models."""
    file = {}
    for name, t in unet.state_dict().items():
        file["model.diffusion_model." + ldm_unet_name(name, unet.config)] = list(t.shape)
    for name, t in vae.state_dict().items():
        shape = list(t.shape)
        if ".attentions." in name and len(shape) == 2:
            shape += [1, 1]
        file["first_stage_model." + ldm_vae_name(name, len(vae.config.block_out_channels))] = shape
    if not v2:
        for name, t in text.state_dict().items():
            if name.startswith("text_model."):
                file["cond_stage_model.transformer." + name] = list(t.shape)
        file["cond_stage_model.transformer.text_model.embeddings.position_ids"] = [1, text.config.max_position_embeddings]
        return file

    model, c = "cond_stage_model.model.", text.config
    file[model + "positional_embedding"] = [c.max_position_embeddings, c.hidden_size]
    file[model + "token_embedding.weight"] = [c.vocab_size, c.hidden_size]
    file[model + "ln_final.weight"] = file[model + "ln_final.bias"] = [c.hidden_size]
    file[model + "text_projection"] = [c.hidden_size, c.hidden_size]
    file[model + "logit_scale"] = []
    for i in range(c.num_hidden_layers):
        block = f"{model}transformer.resblocks.{i}."
        file[block + "attn.in_proj_weight"] = [3 * c.hidden_size, c.hidden_size]
        file[block + "attn.in_proj_bias"] = [3 * c.hidden_size]
        for ours, theirs in OPEN_CLIP.items():
            for tail in ("weight", "bias"):
                t = text.state_dict()[f"text_model.encoder.layers.{i}.{ours}.{tail}"]
                file[f"{block}{theirs}.{tail}"] = list(t.shape)
    return file


def marked(file):
    """Stand-ins whose elements say where they came from, without memory of their own: a converter may reshape and cut
    them. An element is an index into `file`, and a place by its row, which is all that converters cut by."""
    checkpoint = {}
    for index, (name, shape) in enumerate(file.items()):
        rows = torch.arange(shape[0] if shape else 1) + index * 10**6
        rest = max(len(shape) - 1, 0)
        checkpoint[name] = rows.view(-1, *[1] * rest).expand(shape) if shape else rows[0]
    return checkpoint


def pieces(file, converted):
    """{name: piece}"""
    shapes = list(file.values())
    result = {}
    for name, t in converted.items():
        index, row = divmod(int(t.flatten()[0]), 10**6)
        whole = row == 0 and list(t.shape) == shapes[index]
        result[name] = index if whole else [index, row * math.prod(shapes[index][1:]), list(t.shape)]
    return result


def text_encoder_of(checkpoint, hidden, v2, layers):
    if not v2:
        converted = single_file_utils.convert_ldm_clip_checkpoint(checkpoint)
        converted.pop("text_model.embeddings.position_ids")
        return converted
    # diffusers knows the layer that is not run by its number in the full-size model.
    last = f"resblocks.{layers - 1}."
    checkpoint = {k: v for k, v in checkpoint.items() if last not in k and not k.endswith("model.text_projection")}
    return single_file_utils.convert_open_clip_checkpoint(
        SimpleNamespace(config=SimpleNamespace(hidden_size=hidden)), checkpoint
    )


def write(name, unet, vae, text, v2):
    with torch.device("meta"):
        unet, vae = UNet2DConditionModel(**unet), AutoencoderKL(**vae)
        text = CLIPTextModelWithProjection(CLIPTextConfig(**text))
    file = ldm_file(unet, vae, text, v2)
    checkpoint = marked(file)
    converted = {
        "unet": single_file_utils.convert_ldm_unet_checkpoint(checkpoint, unet.config),
        "vae": single_file_utils.convert_ldm_vae_checkpoint(checkpoint, vae.config),
        "text_encoder": text_encoder_of(checkpoint, text.config.hidden_size, v2, text.config.num_hidden_layers),
    }
    # What the converters made must be what the models want.
    for part, model in (("unet", unet), ("vae", vae)):
        assert {k: v.shape for k, v in model.state_dict().items()} == {k: v.shape for k, v in converted[part].items()}
    data = {"file": list(file.items())} | {part: pieces(file, tensors) for part, tensors in converted.items()}
    print(name, *(f"{k} {len(v)}" for k, v in data.items()))
    lines = [f'"{k}": ' + json.dumps(v, separators=(",", ":")) for k, v in data.items()]
    (OUT / f"{name}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


SD_UNET = dict(
    block_out_channels=(320, 640, 1280, 1280),
    down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    layers_per_block=2,
    attention_head_dim=8,
    cross_attention_dim=768,
)
SD2_UNET = SD_UNET | dict(attention_head_dim=(5, 10, 20, 20), cross_attention_dim=1024, use_linear_projection=True)
SD_VAE = dict(
    block_out_channels=(128, 256, 512, 512),
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
    layers_per_block=2,
    latent_channels=4,
)
CLIP_L = dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
OPEN_CLIP_H = dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16)

# The same topology with fewer levels, layers and channels.
TINY_UNET = dict(
    block_out_channels=(32, 64),
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    layers_per_block=1,
    attention_head_dim=8,
    cross_attention_dim=24,
    norm_num_groups=32,
)
TINY_VAE = dict(
    block_out_channels=(32, 32, 64),
    down_block_types=("DownEncoderBlock2D",) * 3,
    up_block_types=("UpDecoderBlock2D",) * 3,
    layers_per_block=1,
    latent_channels=4,
)
TINY_CLIP = dict(
    hidden_size=24, intermediate_size=48, num_hidden_layers=3, num_attention_heads=2, vocab_size=40,
    max_position_embeddings=10, bos_token_id=0, eos_token_id=2,
)  # fmt: skip

OUT.mkdir(parents=True, exist_ok=True)
write("sd15", SD_UNET, SD_VAE, CLIP_L, v2=False)
write("sd21", SD2_UNET, SD_VAE, OPEN_CLIP_H, v2=True)
write("tiny1", TINY_UNET, TINY_VAE, TINY_CLIP, v2=False)
write("tiny2", TINY_UNET | dict(use_linear_projection=True, in_channels=9), TINY_VAE, TINY_CLIP, v2=True)
