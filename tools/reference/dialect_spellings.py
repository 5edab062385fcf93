"""How the keys of LoRA files are spelled: rows of (component, name, layer) to a file's tensors. `name` is the module's
path as diffusers has it, or a native one where the dialect has those."""

from dataclasses import dataclass

from dialect_algorithms import Layer
from dialect_models import Native

FACTORS = {"lora_down.weight": "lora_A.weight", "lora_up.weight": "lora_B.weight"}
TEXTS = ("text_encoder", "text_encoder_2", "text_encoder_3")


@dataclass
class Row:
    component: str
    name: str
    layer: Layer
    native: Native = None  # which of diffusers' modules these rows are


def dotted(key_of, suffixes=None):
    """A spelling whose keys are `key_of(row)`, a dot, and the suffix."""

    def spell(rows):
        out = {}
        for row in rows:
            for suffix, tensor in row.layer.tensors.items():
                out[f"{key_of(row)}.{(suffixes or {}).get(suffix, suffix)}"] = tensor
        return out

    return spell


def flat(prefixes):
    """kohya's: the component's prefix and the name with underscores."""
    return dotted(lambda row: prefixes[row.component] + row.name.replace(".", "_"))


UNET, TWO = {"unet": "lora_unet_"}, {"text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"}
kohya = flat({**UNET, "text_encoder": "lora_te_"})  # Stable Diffusion 1.x and 2.x
kohya_xl = flat({**UNET, **TWO})
kohya_sd3 = flat({"transformer": "lora_unet_", **TWO, "text_encoder_3": "lora_te3_"})
kohya_oft_names = flat({"unet": "oft_unet_"})
onetrainer_legacy = flat({"transformer": "lora_transformer_", **TWO, "text_encoder_3": "lora_te3_"})
simpletuner = flat({"unet": "lycoris_", "transformer": "lycoris_"})


def prefixed(prefixes, suffixes=None):
    return dotted(lambda row: prefixes[row.component] + row.name, suffixes)


COMPONENTS = {c: c + "." for c in ("unet", "transformer", *TEXTS)}
diffusers = prefixed(COMPONENTS, FACTORS)
peft_on_components = prefixed({c: f"{c}.base_model.model." for c in COMPONENTS}, FACTORS)
peft_bare = prefixed({c: "base_model.model." for c in COMPONENTS}, FACTORS)
bare = prefixed({c: "" for c in COMPONENTS}, FACTORS)
COMFY_TEXTS = {
    c: f"text_encoders.{name}.transformer." for c, name in zip(TEXTS, ("clip_l", "clip_g", "t5xxl"), strict=True)
}
COMFY = {"unet": "diffusion_model.", "transformer": "diffusion_model.", **COMFY_TEXTS}
comfy = prefixed(COMFY)
comfy_factors = prefixed(COMFY, FACTORS)
omi = prefixed(
    {
        "unet": "unet.",
        "transformer": "transformer.",
        "text_encoder": "clip_l.",
        "text_encoder_2": "clip_g.",
        "text_encoder_3": "t5.",
    }
)

TEXT_LEAVES = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}


def processors(prefix):
    """The oldest diffusers: LoRA attention processors."""

    def key(row):
        head, leaf = row.name.removesuffix(".0").rsplit(".", 1)
        start = f"{row.component}." if prefix else ""
        middle = ".processor" if row.component == "unet" else ""
        return f"{start}{head}{middle}.{TEXT_LEAVES.get(leaf, leaf)}_lora"

    return dotted(key, {"lora_down.weight": "down.weight", "lora_up.weight": "up.weight"})


def text_processors_twice(rows):
    """A release of diffusers put all four projections' factors below each projection; only its own count."""
    out = {}
    for row in rows:
        head, leaf = row.name.rsplit(".", 1)
        for other in TEXT_LEAVES.values():
            key = f"{row.component}.{head}.{leaf}.{other}_lora"
            own = other == TEXT_LEAVES[leaf]
            for suffix, end in (("lora_down.weight", "down.weight"), ("lora_up.weight", "up.weight")):
                out[f"{key}.{end}"] = row.layer.tensors[suffix] * (1 if own else 3)
    return out


def compatible(rows):
    """diffusers' LoRACompatibleLinear and LoRACompatibleConv."""
    out = {}
    for row in rows:
        inner = "lora" if row.component == "unet" else "lora_linear_layer"
        ends = {"lora_down.weight": "down.weight", "lora_up.weight": "up.weight", "lora_B.bias": "up.bias"}
        for suffix, tensor in row.layer.tensors.items():
            out[f"{row.component}.{row.name}.{inner}.{ends[suffix]}"] = tensor
    return out


def mixed(rows):
    """What today's Stable Diffusion scripts write: attention as in 2023, all else as PEFT has it."""
    old = [r for r in rows if ".attn" in r.name or r.component != "unet"]
    return {**compatible(old), **diffusers([r for r in rows if r not in old])}


XLABS = {
    "img_attn.qkv": "qkv_lora1",
    "txt_attn.qkv": "qkv_lora2",
    "img_attn.proj": "proj_lora1",
    "txt_attn.proj": "proj_lora2",
    "linear1": "qkv_lora",
    "linear2": "proj_lora",
}


def xlabs(rows):
    out = {}
    for row in rows:
        block, i, leaf = row.name.split(".", 2)
        for suffix, end in (("lora_down.weight", "down.weight"), ("lora_up.weight", "up.weight")):
            out[f"{block}.{i}.processor.{XLABS[leaf]}.{end}"] = row.layer.tensors[suffix]
    return out


def renamed(spell, edit):
    """A spelling with something done to each of its keys."""
    return lambda rows: {edit(key): tensor for key, tensor in spell(rows).items()}
