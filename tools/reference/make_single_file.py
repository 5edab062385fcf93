"""Reference data for single-file checkpoints: tests/data/models/single_file/*.json, from diffusers' own converters.

For each of a few tiny models: every tensor of the checkpoint with its shape, and for every tensor of the diffusers
components the checkpoint's tensor that it is a piece of. No weights are stored: tensors are made up by the test.

    {"file": [[name, [sizes]]], "unet": {name: piece}, "vae": {…}, …}

A piece is an index into `file`, or [index, first element, [sizes]] where it is not the whole as it is, or "swapped" or
"transposed" in the place of the first element, or "identity".

full_size.json has the tensors of the published models, as trees in which "0-23" stands for 24 equal branches, and for
each component a hash of the same mapping, since its text would be large: see `mapping_hash`.

Run from anywhere: python tools/reference/make_single_file.py
"""

import json
import math
import pathlib
import re
from types import SimpleNamespace

import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel, UNet2DConditionModel
from diffusers.loaders import single_file_utils
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from tiny import name_hash64

OUT = pathlib.Path(__file__).resolve().parents[2] / "tests/data/models/single_file"

UNET_RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
               "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection"}  # fmt: skip
UNET_ENDS = {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
             "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
             "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"}  # fmt: skip
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
OPEN_CLIP = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
             "self_attn.out_proj": "attn.out_proj"}  # fmt: skip
SD3_ENDS = {"pos_embed.pos_embed": "pos_embed", "pos_embed.proj": "x_embedder.proj", "proj_out": "final_layer.linear",
            "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
            "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
            "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
            "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
            "context_embedder": "context_embedder", "norm_out.linear": "final_layer.adaLN_modulation.1"}  # fmt: skip
SD3_BLOCK = {"attn.norm_q": "x_block.attn.ln_q", "attn.norm_k": "x_block.attn.ln_k", "attn.to_out.0": "x_block.attn.proj",
             "attn2.norm_q": "x_block.attn2.ln_q", "attn2.norm_k": "x_block.attn2.ln_k",
             "attn2.to_out.0": "x_block.attn2.proj", "norm1.linear": "x_block.adaLN_modulation.1",
             "ff.net.0.proj": "x_block.mlp.fc1", "ff.net.2": "x_block.mlp.fc2",
             "attn.norm_added_q": "context_block.attn.ln_q", "attn.norm_added_k": "context_block.attn.ln_k",
             "attn.to_add_out": "context_block.attn.proj", "norm1_context.linear": "context_block.adaLN_modulation.1",
             "ff_context.net.0.proj": "context_block.mlp.fc1", "ff_context.net.2": "context_block.mlp.fc2",
             "attn.to_q": "x_block.attn.qkv", "attn2.to_q": "x_block.attn2.qkv",
             "attn.add_q_proj": "context_block.attn.qkv"}  # fmt: skip


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


# ---- Names and shapes of checkpoints ---------------------------------------------------------------------------------


def shapes_of(model):
    return {name: list(t.shape) for name, t in model.state_dict().items()}


def unet_file(unet):
    return {"model.diffusion_model." + ldm_unet_name(k, unet.config): shape for k, shape in shapes_of(unet).items()}


def vae_file(vae):
    file = {}
    for name, shape in shapes_of(vae).items():
        if ".attentions." in name and len(shape) == 2:
            shape += [1, 1]
        file["first_stage_model." + ldm_vae_name(name, len(vae.config.block_out_channels))] = shape
    return file


def clip_file(text, prefix, projection=False):
    kept = {k: v for k, v in shapes_of(text).items() if projection or k.startswith("text_model.")}
    return {prefix + k: shape for k, shape in kept.items()} | {
        prefix + "text_model.embeddings.position_ids": [1, text.config.max_position_embeddings]
    }


def open_clip_file(text, model):
    c = text.config
    file = {
        model + "positional_embedding": [c.max_position_embeddings, c.hidden_size],
        model + "token_embedding.weight": [c.vocab_size, c.hidden_size],
        model + "ln_final.weight": [c.hidden_size],
        model + "ln_final.bias": [c.hidden_size],
        model + "text_projection": [c.hidden_size, c.projection_dim],
        model + "logit_scale": [],
    }
    shapes = shapes_of(text)
    for i in range(c.num_hidden_layers):
        block = f"{model}transformer.resblocks.{i}."
        file[block + "attn.in_proj_weight"] = [3 * c.hidden_size, c.hidden_size]
        file[block + "attn.in_proj_bias"] = [3 * c.hidden_size]
        for ours, theirs in OPEN_CLIP.items():
            for tail in ("weight", "bias"):
                file[f"{block}{theirs}.{tail}"] = shapes[f"text_model.encoder.layers.{i}.{ours}.{tail}"]
    return file


def sd3_file(transformer):
    file = {}
    for name, shape in shapes_of(transformer).items():
        path, tail = (name, "") if name in SD3_ENDS else name.rsplit(".", 1)
        if m := re.fullmatch(r"transformer_blocks\.(\d+)\.(.+)", path):
            if m[2] not in SD3_BLOCK:  # keys and values, which are one with the queries
                continue
            path = f"joint_blocks.{m[1]}.{SD3_BLOCK[m[2]]}"
            shape = [3 * shape[0], *shape[1:]] if path.endswith("qkv") else shape
        else:
            path = SD3_ENDS[path]
        file["model.diffusion_model." + path + (tail and "." + tail)] = shape
    return file


def t5_file(t5):
    prefix = "text_encoders.t5xxl.transformer."
    return {prefix + k: shape for k, shape in shapes_of(t5).items() if k != "encoder.embed_tokens.weight"}


# ---- What diffusers makes of them ------------------------------------------------------------------------------------

STEP = 10**6


def marked(file):
    """Stand-ins whose elements say where they came from: an index into `file`, and a place by its row, which is all
    that most converters cut by. Other dimensions are as small as they may be, and take no memory of their own."""
    checkpoint = {}
    for index, (name, shape) in enumerate(file.items()):
        rows = torch.arange(shape[0] if shape else 1) + index * STEP
        if name.endswith("text_projection"):  # which is transposed
            checkpoint[name] = rows.view(-1, 1).expand(shape)
        else:
            checkpoint[name] = rows.view(-1, *[1] * (len(shape) - 1)) if shape else rows[0]
    return checkpoint


def piece_of(t, shapes):
    if t.is_floating_point():
        assert torch.equal(t, torch.eye(len(t)))
        return "identity"
    index, row = divmod(int(t.flatten()[0]), STEP)
    shape = shapes[index]
    if t.dim() == 2 and t.shape[1] > 1:
        return [index, "transposed"]
    if int(t.flatten()[-1]) % STEP < row:
        return [index, "swapped"]
    ours = [len(t), *shape[1:]] if len(shape) != 4 or t.dim() == 4 else [len(t), shape[1]]
    whole = row == 0 and ours == shape
    return index if whole else [index, row * math.prod(shape[1:]), ours]


def check_complete(converted, file, model):
    """What the converters made must be what the model wants."""
    shapes = list(file.values())
    wanted = shapes_of(model)
    wanted.pop("encoder.embed_tokens.weight", None)
    assert wanted.keys() == converted.keys(), wanted.keys() ^ converted.keys()
    for name, t in converted.items():
        piece = piece_of(t, shapes)
        if isinstance(piece, int):
            assert shapes[piece] == wanted[name], name
        elif piece != "identity" and len(piece) == 3:
            assert piece[2] == wanted[name], name


def open_clip_of(checkpoint, text, prefix, layers=None):
    if layers:  # diffusers knows the layer that is not run by its number in the full-size model
        last = f"resblocks.{layers - 1}."
        checkpoint = {k: v for k, v in checkpoint.items() if last not in k and not k.endswith("model.text_projection")}
    return single_file_utils.convert_open_clip_checkpoint(
        SimpleNamespace(config=SimpleNamespace(hidden_size=text.config.hidden_size)), checkpoint, prefix=prefix
    )


def clip_of(checkpoint, prefix=None):
    converted = single_file_utils.convert_ldm_clip_checkpoint(checkpoint, prefix)
    converted.pop("text_model.embeddings.position_ids")
    return converted


class Models:
    """The parts of a pipeline, on the meta device, from their configs."""

    def __init__(self, vae, unet=None, transformer=None, clip=None, open_clip=None, t5=None):
        with torch.device("meta"):
            self.vae = AutoencoderKL(**vae)
            self.unet = unet and UNet2DConditionModel(**unet)
            self.transformer = transformer and SD3Transformer2DModel(**transformer)
            self.clip = clip and CLIPTextModelWithProjection(CLIPTextConfig(**clip))
            self.open_clip = open_clip and CLIPTextModelWithProjection(CLIPTextConfig(**open_clip))
            self.t5 = t5 and T5EncoderModel(T5Config(**t5))

    def denoiser_and_vae(self, file, checkpoint):
        denoiser, name = (self.unet, "unet") if self.unet else (self.transformer, "transformer")
        converted = {"vae": single_file_utils.convert_ldm_vae_checkpoint(dict(checkpoint), self.vae.config)}
        if self.unet:
            converted[name] = single_file_utils.convert_ldm_unet_checkpoint(dict(checkpoint), denoiser.config)
        else:
            own = {k: v for k, v in checkpoint.items() if k.startswith("model.diffusion_model.")}
            converted[name] = single_file_utils.convert_sd3_transformer_checkpoint_to_diffusers(own)
        check_complete(converted["vae"], file, self.vae)
        check_complete(converted[name], file, denoiser)
        return converted


def stable_diffusion(models, v2):
    file = unet_file(models.unet) | vae_file(models.vae)
    file |= open_clip_file(models.open_clip, "cond_stage_model.model.") if v2 else {}
    file |= {} if v2 else clip_file(models.clip, "cond_stage_model.transformer.")
    checkpoint = marked(file)
    converted = models.denoiser_and_vae(file, checkpoint)
    if v2:
        layers = models.open_clip.config.num_hidden_layers
        converted["text_encoder"] = open_clip_of(checkpoint, models.open_clip, "cond_stage_model.model.", layers)
    else:
        converted["text_encoder"] = clip_of(checkpoint)
    return file, converted


def stable_diffusion_xl(models):
    file = unet_file(models.unet) | vae_file(models.vae)
    prefix = f"conditioner.embedders.{1 if models.clip else 0}.model."
    file |= clip_file(models.clip, "conditioner.embedders.0.transformer.") if models.clip else {}
    file |= open_clip_file(models.open_clip, prefix)
    checkpoint = marked(file)
    converted = models.denoiser_and_vae(file, checkpoint)
    if models.clip:
        converted["text_encoder"] = clip_of(checkpoint)
    converted["text_encoder_2"] = open_clip_of(checkpoint, models.open_clip, prefix)
    check_complete(converted["text_encoder_2"], file, models.open_clip)
    return file, converted


def stable_diffusion_3(models):
    file = sd3_file(models.transformer) | vae_file(models.vae)
    clip_l, clip_g = ("text_encoders.clip_l.transformer.", "text_encoders.clip_g.transformer.")
    file |= clip_file(models.clip, clip_l) if models.clip else {}
    file |= clip_file(models.open_clip, clip_g, projection=True) if models.open_clip else {}
    file |= t5_file(models.t5) if models.t5 else {}
    checkpoint = marked(file)
    converted = models.denoiser_and_vae(file, checkpoint)
    if models.clip:
        converted["text_encoder"] = clip_of(checkpoint, clip_l)
        # As create_diffusers_clip_model_from_ldm does it.
        converted["text_encoder"]["text_projection.weight"] = torch.eye(models.clip.config.hidden_size)
        check_complete(converted["text_encoder"], file, models.clip)
    if models.open_clip:
        converted["text_encoder_2"] = clip_of(checkpoint, clip_g)
        check_complete(converted["text_encoder_2"], file, models.open_clip)
    if models.t5:
        converted["text_encoder_3"] = single_file_utils.convert_sd3_t5_checkpoint_to_diffusers(checkpoint)
        check_complete(converted["text_encoder_3"], file, models.t5)
    return file, converted


# ---- Files -----------------------------------------------------------------------------------------------------------


def write_tiny(name, made):
    file, converted = made
    shapes = list(file.values())
    data = {"file": list(file.items())}
    for part, tensors in converted.items():
        data[part] = {k: piece_of(t, shapes) for k, t in tensors.items()}
    print(name, *(f"{k} {len(v)}" for k, v in data.items()))
    lines = [f'"{k}": ' + json.dumps(v, separators=(",", ":")) for k, v in data.items()]
    (OUT / f"{name}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


def folded(tree):
    """Consecutive numbers with equal branches become one."""
    if isinstance(tree, list):
        return tree
    result, run = {}, None
    for key, node in tree.items():
        node = folded(node)
        if run and key.isdigit() and int(key) == run[1] + 1 and node == run[2]:
            run[1] += 1
            continue
        if run:
            result[str(run[0]) if run[0] == run[1] else f"{run[0]}-{run[1]}"] = run[2]
        run = [int(key), int(key), node] if key.isdigit() else None
        if not run:
            result[key] = node
    if run:
        result[str(run[0]) if run[0] == run[1] else f"{run[0]}-{run[1]}"] = run[2]
    return result


def tree_of(file):
    tree = {}
    for name, shape in file.items():
        *path, last = name.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[last] = shape
    return folded(tree)


def mapping_hash(file, tensors):
    """Of lines "name origin", sorted, the origin being "tensor of the file" and the row where it begins, "copied" for
    what no view of the file can say. As text, for JSON's numbers are not whole."""
    names, shapes = list(file), list(file.values())
    lines = []
    for name, t in tensors.items():
        piece = piece_of(t, shapes)
        if piece == "identity" or (isinstance(piece, list) and piece[1] == "swapped"):
            lines.append(f"{name} copied\n")
        elif isinstance(piece, list) and piece[1] == "transposed":
            lines.append(f"{name} {names[piece[0]]} 0\n")
        else:
            index, element = (piece, 0) if isinstance(piece, int) else piece[:2]
            lines.append(f"{name} {names[index]} {element}\n")
    return f"{name_hash64(''.join(sorted(lines))):016x}"


def write_full_size(all_made):
    lines = []
    for name, (file, converted) in all_made.items():
        hashes = {part: {"size": len(t), "mapping": mapping_hash(file, t)} for part, t in converted.items()}
        print(name, *(f"{k} {v['size']}" for k, v in hashes.items()))
        data = {"file": tree_of(file), "components": hashes}
        lines.append(f'"{name}": ' + json.dumps(data, separators=(",", ":")))
    (OUT / "full_size.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


# ---- Models ----------------------------------------------------------------------------------------------------------

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
OPEN_CLIP_H = dict(
    hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, projection_dim=1024
)
CLIP_L |= dict(projection_dim=768)
OPEN_CLIP_G = dict(
    hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=20, projection_dim=1280
)
SDXL_UNET = dict(
    block_out_channels=(320, 640, 1280),
    down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * 2,
    up_block_types=("CrossAttnUpBlock2D",) * 2 + ("UpBlock2D",),
    layers_per_block=2,
    attention_head_dim=(5, 10, 20),
    cross_attention_dim=2048,
    transformer_layers_per_block=(1, 2, 10),
    use_linear_projection=True,
    addition_embed_type="text_time",
    addition_time_embed_dim=256,
    projection_class_embeddings_input_dim=2816,
)
REFINER_UNET = SDXL_UNET | dict(
    block_out_channels=(384, 768, 1536, 1536),
    down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * 2 + ("DownBlock2D",),
    up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 2 + ("UpBlock2D",),
    attention_head_dim=(6, 12, 24, 24),
    cross_attention_dim=1280,
    transformer_layers_per_block=4,
    projection_class_embeddings_input_dim=2560,
)
SD3_VAE = SD_VAE | dict(latent_channels=16, use_quant_conv=False, use_post_quant_conv=False)
SD3 = dict(
    num_layers=24, attention_head_dim=64, num_attention_heads=24, caption_projection_dim=1536, in_channels=16,
    joint_attention_dim=4096, pooled_projection_dim=2048, out_channels=16, pos_embed_max_size=192,
)  # fmt: skip
SD35_MEDIUM = SD3 | dict(pos_embed_max_size=384, dual_attention_layers=tuple(range(13)), qk_norm="rms_norm")
SD35_LARGE = SD3 | dict(num_layers=38, num_attention_heads=38, caption_projection_dim=2432, qk_norm="rms_norm")
T5_XXL = dict(
    vocab_size=32128, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64, feed_forward_proj="gated-gelu"
)

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
TINY_XL_UNET = TINY_UNET | dict(
    block_out_channels=(32, 64, 64),
    down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * 2,
    up_block_types=("CrossAttnUpBlock2D",) * 2 + ("UpBlock2D",),
    cross_attention_dim=24 + 28,
    transformer_layers_per_block=(1, 1, 2),
    use_linear_projection=True,
    addition_embed_type="text_time",
    addition_time_embed_dim=256,
    projection_class_embeddings_input_dim=6 * 256 + 20,
)
TINY_REFINER_UNET = TINY_XL_UNET | dict(
    block_out_channels=(32, 64, 64, 64),
    down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * 2 + ("DownBlock2D",),
    up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 2 + ("UpBlock2D",),
    cross_attention_dim=28,
    transformer_layers_per_block=2,
    projection_class_embeddings_input_dim=5 * 256 + 20,
)
TINY_SD3 = dict(
    num_layers=2, attention_head_dim=16, num_attention_heads=1, caption_projection_dim=16, in_channels=4,
    joint_attention_dim=60, pooled_projection_dim=44, out_channels=4, pos_embed_max_size=6,
)  # fmt: skip
TINY_SD35 = TINY_SD3 | dict(num_attention_heads=2, caption_projection_dim=16, attention_head_dim=8,
                            num_layers=3, dual_attention_layers=(0, 2), qk_norm="rms_norm")  # fmt: skip
TINY_T5 = dict(
    vocab_size=50, d_model=60, d_kv=8, d_ff=32, num_layers=2, num_heads=3, feed_forward_proj="gated-gelu"
)
TINY_CLIP = dict(
    hidden_size=24, intermediate_size=48, num_hidden_layers=3, num_attention_heads=2, vocab_size=40,
    max_position_embeddings=10, bos_token_id=0, eos_token_id=2,
)  # fmt: skip
TINY_CLIP |= dict(projection_dim=24)
TINY_OPEN_CLIP = TINY_CLIP | dict(hidden_size=28, projection_dim=20)
TINY_SD3_VAE = TINY_VAE | dict(use_quant_conv=False, use_post_quant_conv=False)


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    tiny2 = TINY_UNET | dict(use_linear_projection=True, in_channels=9)
    write_tiny("sd1", stable_diffusion(Models(TINY_VAE, TINY_UNET, clip=TINY_CLIP), v2=False))
    write_tiny("sd2", stable_diffusion(Models(TINY_VAE, tiny2, open_clip=TINY_CLIP), v2=True))
    write_tiny("sdxl", stable_diffusion_xl(Models(TINY_VAE, TINY_XL_UNET, clip=TINY_CLIP, open_clip=TINY_OPEN_CLIP)))
    write_tiny("sdxl_refiner", stable_diffusion_xl(Models(TINY_VAE, TINY_REFINER_UNET, open_clip=TINY_OPEN_CLIP)))
    write_tiny("sd3", stable_diffusion_3(Models(
        TINY_SD3_VAE, transformer=TINY_SD3, clip=TINY_CLIP, open_clip=TINY_OPEN_CLIP, t5=TINY_T5)))  # fmt: skip
    write_tiny("sd35", stable_diffusion_3(Models(TINY_SD3_VAE, transformer=TINY_SD35)))
    clips = dict(clip=CLIP_L, open_clip=OPEN_CLIP_G)
    write_full_size({
        "sd15": stable_diffusion(Models(SD_VAE, SD_UNET, clip=CLIP_L), v2=False),
        "sd21": stable_diffusion(Models(SD_VAE, SD2_UNET, open_clip=OPEN_CLIP_H), v2=True),
        "sdxl": stable_diffusion_xl(Models(SD_VAE, SDXL_UNET, **clips)),
        "sdxl_refiner": stable_diffusion_xl(Models(SD_VAE, REFINER_UNET, open_clip=OPEN_CLIP_G)),
        "sd3": stable_diffusion_3(Models(SD3_VAE, transformer=SD3, **clips, t5=T5_XXL)),
        "sd35_medium": stable_diffusion_3(Models(SD3_VAE, transformer=SD35_MEDIUM)),
        "sd35_large": stable_diffusion_3(Models(SD3_VAE, transformer=SD35_LARGE)),
    })  # fmt: skip


if __name__ == "__main__":
    main()
