"""The models of tests/data/dialects, and what their modules are called elsewhere: in the original latent diffusion code
(SGM), in Stability's MM-DiT and in Black Forest Labs' Flux. A native module may be several of diffusers' (a fused qkv)
or have its rows in another order; `Native` says which rows are whose.

Weights are made from names (tiny.weight), so that only configs are stored.
"""

import re
from dataclasses import dataclass
from functools import cache

import torch
from tiny import noise, weight

# ---- Configs --------------------------------------------------------------------------------------------------------


def clip(width, projection=None):
    """OpenCLIP models have no config value of their own that matters here: names and sizes do."""
    return dict(
        architectures=["CLIPTextModelWithProjection" if projection else "CLIPTextModel"],
        hidden_size=width,
        intermediate_size=2 * width,
        num_attention_heads=2,
        num_hidden_layers=2,
        max_position_embeddings=16,
        vocab_size=100,
        projection_dim=projection or width,
        hidden_act="quick_gelu",
        bos_token_id=98,
        eos_token_id=99,
        pad_token_id=99,
        model_type="clip_text_model",
    )


T5 = dict(
    architectures=["T5EncoderModel"],
    d_model=24,
    d_kv=8,
    d_ff=32,
    num_heads=2,
    num_layers=2,
    vocab_size=100,
    feed_forward_proj="gated-gelu",
    relative_attention_num_buckets=8,
    relative_attention_max_distance=16,
    model_type="t5",
)


def sd_unet(cross, in_channels=4):
    """SD 1.x' and 2.x' levels and layers; the width of the text embeddings is the real one, which tells them apart."""
    return dict(
        block_out_channels=[8, 8, 16, 16],
        down_block_types=["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        up_block_types=["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
        attention_head_dim=2,
        cross_attention_dim=cross,
        in_channels=in_channels,
        layers_per_block=2,
        norm_num_groups=4,
        sample_size=8,
    )


SDXL_UNET = dict(
    block_out_channels=[8, 8, 16],
    down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    up_block_types=["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    attention_head_dim=[2, 2, 4],
    transformer_layers_per_block=[1, 1, 2],
    cross_attention_dim=2048,
    layers_per_block=2,
    norm_num_groups=4,
    sample_size=8,
    use_linear_projection=True,
    addition_embed_type="text_time",
    addition_time_embed_dim=4,
    projection_class_embeddings_input_dim=24 + 6 * 4,
)
SD3 = dict(
    sample_size=8,
    patch_size=2,
    in_channels=4,
    out_channels=4,
    num_layers=3,
    attention_head_dim=8,
    num_attention_heads=2,
    joint_attention_dim=24,
    caption_projection_dim=16,
    pooled_projection_dim=40,
    pos_embed_max_size=8,
    qk_norm="rms_norm",
    dual_attention_layers=[0],
)
UVIT = dict(
    hidden_size=16,
    cond_embed_dim=24,
    encoder_hidden_size=16,
    micro_cond_encode_dim=8,
    micro_cond_embed_dim=40,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    vocab_size=40,
    codebook_size=32,
    block_out_channels=16,
    block_num_heads=2,
    in_channels=16,
    num_res_blocks=1,
    sample_size=8,
)


def models():
    """name -> component -> (class, config)"""
    sd_text = {"text_encoder": ("CLIPTextModel", clip(16))}
    two = {
        "text_encoder": ("CLIPTextModelWithProjection", clip(16, 16)),
        "text_encoder_2": ("CLIPTextModelWithProjection", clip(24, 24)),
    }
    return {
        "sd": {"unet": ("UNet2DConditionModel", sd_unet(768)), **sd_text},
        "sd2": {"unet": ("UNet2DConditionModel", sd_unet(1024)), **sd_text},
        "sd-inpaint": {"unet": ("UNet2DConditionModel", sd_unet(768, 9)), **sd_text},
        "sdxl": {
            "unet": ("UNet2DConditionModel", SDXL_UNET),
            **sd_text,
            "text_encoder_2": ("CLIPTextModelWithProjection", clip(24, 24)),
        },
        "sd3": {"transformer": ("SD3Transformer2DModel", SD3), **two, "text_encoder_3": ("T5EncoderModel", T5)},
        "sd3-no-t5": {"transformer": ("SD3Transformer2DModel", SD3), **two},
        "amused": {
            "transformer": ("UVit2DModel", UVIT),
            "text_encoder": ("CLIPTextModelWithProjection", clip(16, 24)),
        },
    }


# ---- Modules --------------------------------------------------------------------------------------------------------


def canonical(path, cls):
    """transformers 5 leaves the first level out of CLIPTextModel's modules; files and our models have it."""
    return "text_model." + path if cls == "CLIPTextModel" and not path.startswith("text_model.") else path


@cache
def make_model(model, component):
    import diffusers
    import transformers

    cls, config = models()[model][component]
    if hasattr(diffusers, cls):
        made = getattr(diffusers, cls).from_config(config)
    else:
        made = getattr(transformers, cls)(getattr(transformers, cls).config_class(**config))
    state = {}
    for key, value in made.state_dict().items():
        name = "encoder.embed_tokens.weight" if key == "shared.weight" else canonical(key, cls)
        state[key] = weight(name, tuple(value.shape)) if value.is_floating_point() else value
    made.load_state_dict(state)
    return made.eval()


@cache
def modules(model, component):
    """path -> module, for what adapters can be on"""
    cls = models()[model][component][0]
    kinds = (torch.nn.Linear, torch.nn.Conv2d, torch.nn.Embedding, torch.nn.LayerNorm, torch.nn.GroupNorm)
    return {canonical(n, cls): m for n, m in make_model(model, component).named_modules() if isinstance(m, kinds)}


def module(model, component, path):
    return modules(model, component)[path]


# ---- SGM -------------------------------------------------------------------------------------------------------------

RESNET = dict(
    norm1="in_layers.0",
    conv1="in_layers.2",
    time_emb_proj="emb_layers.1",
    norm2="out_layers.0",
    conv2="out_layers.3",
    conv_shortcut="skip_connection",
)
SGM_TOP = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def sgm(path, model):
    """diffusers' path of a UNet's module in the original names, for two layers a block."""
    if path in SGM_TOP:
        return SGM_TOP[path]
    if m := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d)\.(.+)", path):
        return f"middle_block.{2 * int(m[2])}.{RESNET[m[3]]}" if m[1] == "resnets" else f"middle_block.1.{m[3]}"
    m = re.fullmatch(r"(down|up)_blocks\.(\d)\.(\w+)\.(\d)\.(.+)", path)
    side, b, kind, k, rest = m[1], int(m[2]), m[3], int(m[4]), m[5]
    inputs = side == "down"
    block = f"input_blocks.{1 + 3 * b + k}" if inputs else f"output_blocks.{3 * b + k}"
    if kind == "downsamplers":
        return f"input_blocks.{3 + 3 * b}.0.op"
    if kind == "upsamplers":
        attends = "CrossAttn" in models()[model]["unet"][1]["up_block_types"][b]
        return f"output_blocks.{3 * b + 2}.{2 if attends else 1}.conv"
    return f"{block}.0.{RESNET[rest]}" if kind == "resnets" else f"{block}.1.{rest}"


# ---- MM-DiT and Flux -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Native:
    """A native module: diffusers' modules whose rows it has, one after the other; or one whose row halves it swaps."""

    paths: tuple
    rows: tuple
    swapped: bool = False

    def split(self, tensor):
        """What of a tensor with the native module's rows belongs to each path."""
        if tensor is None:
            return [None] * len(self.paths)
        if self.swapped:
            return [torch.cat(list(tensor.chunk(2))[::-1])]
        return list(tensor.split(list(self.rows)))

    def join(self, tensors):
        if any(t is None for t in tensors):
            return None
        return torch.cat(list(tensors[0].chunk(2))[::-1]) if self.swapped else torch.cat(tensors)


MMDIT = {
    r"joint_blocks\.(\d+)\.x_block\.attn\.qkv": ["attn.to_q", "attn.to_k", "attn.to_v"],
    r"joint_blocks\.(\d+)\.context_block\.attn\.qkv": ["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"],
    r"joint_blocks\.(\d+)\.x_block\.attn2\.qkv": ["attn2.to_q", "attn2.to_k", "attn2.to_v"],
    r"joint_blocks\.(\d+)\.x_block\.attn\.proj": ["attn.to_out.0"],
    r"joint_blocks\.(\d+)\.x_block\.attn2\.proj": ["attn2.to_out.0"],
    r"joint_blocks\.(\d+)\.context_block\.attn\.proj": ["attn.to_add_out"],
    r"joint_blocks\.(\d+)\.x_block\.mlp\.fc1": ["ff.net.0.proj"],
    r"joint_blocks\.(\d+)\.x_block\.mlp\.fc2": ["ff.net.2"],
    r"joint_blocks\.(\d+)\.context_block\.mlp\.fc1": ["ff_context.net.0.proj"],
    r"joint_blocks\.(\d+)\.context_block\.mlp\.fc2": ["ff_context.net.2"],
    r"joint_blocks\.(\d+)\.x_block\.adaLN_modulation\.1": ["norm1.linear"],
    r"joint_blocks\.(\d+)\.context_block\.adaLN_modulation\.1": ["norm1_context.linear"],
}
MMDIT_TOP = {
    "x_embedder.proj": "pos_embed.proj",
    "context_embedder": "context_embedder",
    "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
    "y_embedder.mlp.0": "time_text_embed.text_embedder.linear_1",
    "y_embedder.mlp.2": "time_text_embed.text_embedder.linear_2",
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": "norm_out.linear",
}


def mmdit(name):
    """Native(…) for a module of Stability's MM-DiT."""
    last = models()["sd3"]["transformer"][1]["num_layers"] - 1
    if name in MMDIT_TOP:
        paths, swapped = [MMDIT_TOP[name]], name == "final_layer.adaLN_modulation.1"
    else:
        pattern, leaves = next((p, l) for p, l in MMDIT.items() if re.fullmatch(p, name))
        i = int(re.fullmatch(pattern, name)[1])
        paths = [f"transformer_blocks.{i}.{leaf}" for leaf in leaves]
        swapped = i == last and leaves == ["norm1_context.linear"]
    rows = tuple(module("sd3", "transformer", p).weight.shape[0] for p in paths)
    return Native(tuple(paths), rows, swapped)


# Flux has no model here: sizes alone.
FLUX_WIDTH = 8
FLUX = {
    "double_blocks.{i}.img_attn.qkv": (["attn.to_q", "attn.to_k", "attn.to_v"], (1, 1, 1), 1),
    "double_blocks.{i}.txt_attn.qkv": (["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"], (1, 1, 1), 1),
    "double_blocks.{i}.img_attn.proj": (["attn.to_out.0"], (1,), 1),
    "double_blocks.{i}.txt_attn.proj": (["attn.to_add_out"], (1,), 1),
    "double_blocks.{i}.img_mlp.0": (["ff.net.0.proj"], (4,), 1),
    "double_blocks.{i}.img_mlp.2": (["ff.net.2"], (1,), 4),
    "double_blocks.{i}.txt_mlp.0": (["ff_context.net.0.proj"], (4,), 1),
    "double_blocks.{i}.txt_mlp.2": (["ff_context.net.2"], (1,), 4),
    "double_blocks.{i}.img_mod.lin": (["norm1.linear"], (6,), 1),
    "double_blocks.{i}.txt_mod.lin": (["norm1_context.linear"], (6,), 1),
    "single_blocks.{i}.linear1": (["attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"], (1, 1, 1, 4), 1),
    "single_blocks.{i}.linear2": (["proj_out"], (1,), 5),
    "single_blocks.{i}.modulation.lin": (["norm.linear"], (3,), 1),
    "img_in": (["x_embedder"], (1,), 4),
    "txt_in": (["context_embedder"], (1,), 2),
    "time_in.in_layer": (["time_text_embed.timestep_embedder.linear_1"], (1,), 2),
    "vector_in.out_layer": (["time_text_embed.text_embedder.linear_2"], (1,), 1),
    "guidance_in.in_layer": (["time_text_embed.guidance_embedder.linear_1"], (1,), 2),
    "final_layer.linear": (["proj_out"], (4,), 1),
    "final_layer.adaLN_modulation.1": (["norm_out.linear"], (2,), 1),
}


def flux(name):
    """(Native, width of the input) for a module of Black Forest Labs' Flux."""
    pattern = re.sub(r"_blocks\.\d+\.", "_blocks.{i}.", name)
    leaves, rows, inputs = FLUX[pattern]
    m = re.match(r"(double|single)_blocks\.(\d+)\.", name)
    block = ("single_" if m and m[1] == "single" else "") + f"transformer_blocks.{m[2]}." if m else ""
    paths = tuple(block + leaf for leaf in leaves)
    return Native(paths, tuple(r * FLUX_WIDTH for r in rows), "final_layer.ada" in name), inputs * FLUX_WIDTH


def random(name, shape, std=1.0):
    """Numbers from a name, of a deviation, as float32: exact anywhere."""
    return (noise(name, tuple(shape)) * std * 3**0.5).float()


# ---- Whether the names are right -------------------------------------------------------------------------------------


def check_names():
    """diffusers' own converters of checkpoints know the same names."""
    from diffusers.loaders import single_file_utils as convert

    for model in ("sd", "sdxl"):
        cls, config = models()[model]["unet"]
        paths = [p for p, m in modules(model, "unet").items()]
        checkpoint, wanted = {}, {}
        for path in paths:
            for end, tensor in module(model, "unet", path).state_dict().items():
                checkpoint[f"model.diffusion_model.{sgm(path, model)}.{end}"] = tensor
                wanted[f"{path}.{end}"] = tensor
        config = dict(make_model(model, "unet").config)
        found = convert.convert_ldm_unet_checkpoint(checkpoint, config)
        assert found.keys() == wanted.keys(), found.keys() ^ wanted.keys()
        assert all(torch.equal(found[k], wanted[k]) for k in wanted)

    blocks = models()["sd3"]["transformer"][1]["num_layers"]
    names = list(MMDIT_TOP) + [p.replace(r"(\d+)", str(i)).replace("\\", "") for i in range(blocks) for p in MMDIT]
    names = [n for n in names if ".attn2." not in n or n.startswith("joint_blocks.0.")]
    last = f"joint_blocks.{blocks - 1}.context_block."
    names = [n for n in names if not n.startswith(last) or n.endswith(("qkv", "modulation.1"))]
    native = {n: mmdit(n) for n in names}
    tensors = {n: noise(n, (sum(m.rows), 16)).float() for n, m in native.items()}
    checkpoint = {
        f"{n}.{end}": t if end == "weight" else t[:, 0] for n, t in tensors.items() for end in ("weight", "bias")
    }
    checkpoint["pos_embed"] = torch.zeros(1)
    found = convert.convert_sd3_transformer_checkpoint_to_diffusers(checkpoint)
    split = {p: t for n, m in native.items() for p, t in zip(m.paths, m.split(tensors[n]), strict=True)}
    assert {f"{p}.{e}" for p in split for e in ("weight", "bias")} == found.keys() - {"pos_embed.pos_embed"}
    assert all(torch.equal(found[f"{p}.weight"], t) for p, t in split.items())
