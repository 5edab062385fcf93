"""The spellings that LoRA files of Stable Diffusion come in: layers to tensors, as each trainer names them."""
import copy
import re

import torch
from common import normal, settle
from lora_models import OUT, canonical, random_layer

FILES = OUT / "files"


def each(layers):
    return ((c, path, layer) for c, of in layers.items() for path, layer in of.items())


def peft_keys(layers):
    out = {}
    for c, path, layer in each(layers):
        out[f"{c}.{path}.lora_A.weight"], out[f"{c}.{path}.lora_B.weight"] = layer.A, layer.B
    return out


def flat_name(component, path):
    return ("lora_unet_" if component == "unet" else "lora_te_") + path.replace(".", "_")


def kohya_keys(layers, name=flat_name, alpha=None):
    """kohya's LoRAModule: lora_down, lora_up and alpha under the layer's path with underscores for dots. The alpha is a
    scalar of the matrices' dtype, unless `alpha` makes another of it."""
    out = {}
    for c, path, layer in each(layers):
        n = name(c, path)
        out[n + ".lora_down.weight"], out[n + ".lora_up.weight"] = layer.A, layer.B
        if layer.alpha is not None:
            out[n + ".alpha"] = alpha(layer.alpha) if alpha else torch.tensor(layer.alpha, dtype=layer.A.dtype)
    return out


def kohya_metadata(dim, alpha, **extra):
    return {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(dim),
        "ss_network_alpha": str(alpha),
        "ss_base_model_version": "sd_v1",
        "ss_v2": "False",
        **extra,
    }


def processor_keys(layers, prefix):
    """The oldest: LoRA attention processors. The text encoder got them with the prefixes."""
    out = {}
    for c, path, layer in each(layers):
        head, leaf = path.removesuffix(".0").rsplit(".", 1)
        leaf = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}.get(leaf, leaf)
        where = f"{c}.{head}" if prefix else head
        where += ".processor" if c == "unet" else ""
        out[f"{where}.{leaf}_lora.down.weight"], out[f"{where}.{leaf}_lora.up.weight"] = layer.A, layer.B
    return out


def compatible_keys(layers):
    """diffusers' LoRACompatibleLinear and LoRACompatibleConv."""
    out = {}
    for c, path, layer in each(layers):
        n = f"{c}.{path}." + ("lora" if c == "unet" else "lora_linear_layer")
        out[n + ".down.weight"], out[n + ".up.weight"] = layer.A, layer.B
    return out


def make_peft(name, configs, base):
    """Adapters made by PEFT itself: (models with them, their layers as the file will have them)."""
    from peft import LoraConfig

    models, layers = copy.deepcopy(base), {}
    for component, given in configs.items():
        model, config = models[component], LoraConfig(init_lora_weights=False, **given)
        model.add_adapter(config)
        model.peft_config["default"].base_model_name_or_path = None  # where this checkout is
        layers[component] = {}
        for path, module in model.named_modules():
            if not hasattr(module, "lora_A"):
                continue
            full = canonical(component, path)
            A, B, base_layer = module.lora_A["default"], module.lora_B["default"], module.base_layer
            made = random_layer(f"{name}.{component}.{full}", base_layer, A.weight.shape[0])
            A.weight.data, B.weight.data = made.A, made.B

            def pattern(table, otherwise, path=path):
                return next((v for k, v in table.items() if re.match(rf"(.*\.)?({k})$", path)), otherwise)

            made.alpha = pattern(config.alpha_pattern, config.lora_alpha)
            made.rslora = config.use_rslora
            assert made.rank == pattern(config.rank_pattern, config.r)
            assert abs(made.scale - module.scaling["default"]) < 1e-12, (path, made.scale, module.scaling)
            if B.bias is not None:
                made.bias = B.bias.data = normal(f"{name}.{full}.bias", B.bias.shape, 0.2)
            if config.use_dora:
                magnitude = module.lora_magnitude_vector["default"].weight
                factor = 1 + normal(f"{name}.{full}.magnitude", magnitude.shape, 0.1)
                magnitude.data = base_layer.weight.data.flatten(1).norm(dim=1).view(magnitude.shape) * factor
                made.magnitude = magnitude.data.flatten()
            layers[component][full] = made
    return models, layers


def save_peft(name, models, components, metadata, binary=False):
    """The file as diffusers' training scripts write it."""
    from diffusers import StableDiffusionPipeline
    from diffusers.training_utils import _collate_lora_metadata
    from peft.utils import get_peft_model_state_dict

    keys = {f"{c}_lora_layers": get_peft_model_state_dict(models[c]) for c in components}
    if metadata:
        for arg, fields in _collate_lora_metadata({c: models[c] for c in components}).items():
            keys[arg] = {k: sorted(v) if isinstance(v, set) else v for k, v in fields.items()}
    StableDiffusionPipeline.save_lora_weights(FILES, weight_name=name, safe_serialization=not binary, **keys)
    if not binary:
        settle(FILES / name)
