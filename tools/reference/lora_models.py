"""The tiny models that the LoRA files of the tests are made for, their adapters as numbers, and the formula."""
import copy
import json
import math
from dataclasses import dataclass

import torch
from common import DATA, normal, save_tensors

OUT = DATA / "lora"
UNET = dict(
    sample_size=8,
    in_channels=4,
    out_channels=4,
    layers_per_block=1,
    block_out_channels=(8, 20),
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    cross_attention_dim=16,
    attention_head_dim=2,
    norm_num_groups=4,
)
TEXT = dict(
    vocab_size=100,
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=8,
    projection_dim=16,
    bos_token_id=98,
    eos_token_id=99,
    pad_token_id=99,
)
COMPONENTS = ("unet", "text_encoder")

# ---- Layers ----------------------------------------------------------------------------------------------------------


@dataclass
class Layer:
    """One layer's adapter: A and B of the shapes and dtype in the file, and what scales them."""

    A: torch.Tensor
    B: torch.Tensor
    alpha: float | None = None  # none: as if it were the rank
    rslora: bool = False
    bias: torch.Tensor | None = None
    magnitude: torch.Tensor | None = None

    @property
    def rank(self):
        return self.A.shape[0]

    @property
    def scale(self):
        alpha = self.rank if self.alpha is None else self.alpha
        return alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    def delta(self, shape):
        return (self.scale * self.B.double().flatten(1) @ self.A.double().flatten(1)).reshape(shape)


def canonical(component, path):
    """A path as checkpoints have it: transformers 5 leaves the text encoder's first level out of its modules."""
    return "text_model." + path if component == "text_encoder" and not path.startswith("text_model.") else path


def adaptable(model, component):
    kinds = (torch.nn.Linear, torch.nn.Conv2d)
    return {canonical(component, n): m for n, m in model.named_modules() if isinstance(m, kinds) and "lora_" not in n}


def random_layer(name, module, rank):
    """Large enough for the result to differ clearly, small enough not to amplify rounding: a third of a weight's own
    deviation, whatever the rank."""
    shape = module.weight.shape
    out, kernel = shape[0], tuple(shape[2:])
    A = normal(name + ".A", (rank, shape[1], *kernel), shape[1:].numel() ** -0.5)
    B = normal(name + ".B", (out, rank, *(1 for _ in kernel)), 0.35 * rank**-0.5)
    return Layer(A, B)


def attention(path):
    """What kohya trains by default: everything linear, and the 1x1 projections, in the transformers."""
    return ".attentions." in path or path.startswith("text_model.")


def only(*names):
    return lambda path: path.endswith(names)


QKVO = only("to_q", "to_k", "to_v", "to_out.0", "q_proj", "k_proj", "v_proj", "out_proj")


def random_layers(name, models, chosen, rank=4, alpha=None, components=COMPONENTS):
    """rank and alpha: a number, or a function of the layer's number."""
    layers, i = {}, 0
    for component in components:
        layers[component] = {}
        for path, module in adaptable(models[component], component).items():
            if chosen(path):
                r = rank(i) if callable(rank) else rank
                layer = random_layer(f"{name}.{component}.{path}", module, r)
                layer.alpha = alpha(i) if callable(alpha) else alpha
                layers[component][path] = layer
                i += 1
    return layers


# ---- Models ----------------------------------------------------------------------------------------------------------


def make_models():
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    unet, text = UNet2DConditionModel(**UNET), CLIPTextModel(CLIPTextConfig(**TEXT))
    for component, model in (("unet", unet), ("text_encoder", text)):
        weights = {}
        for key, tensor in model.state_dict().items():
            key = canonical(component, key)
            norm = "norm" in key
            fan_in = tensor[0].numel() if tensor.ndim > 1 and "embedding.weight" not in key else 10
            weights[key] = normal(f"{component}.{key}", tensor.shape, 0.1 if norm or tensor.ndim == 1 else fan_in**-0.5)
            if norm and key.endswith("weight"):
                weights[key] += 1
        folder = OUT / "model" / component
        folder.mkdir(parents=True)
        model.save_config(folder) if component == "unet" else model.config.save_pretrained(folder)
        config = json.loads((folder / "config.json").read_text())
        config.pop("_name_or_path", None)
        config.pop("dtype", None)
        if component == "text_encoder":
            config["architectures"] = ["CLIPTextModel"]
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        name = "diffusion_pytorch_model" if component == "unet" else "model"
        save_tensors(weights, folder / f"{name}.safetensors", {"format": "pt"})


def load_models():
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModel

    unet = UNet2DConditionModel.from_pretrained(OUT / "model" / "unet")
    text = CLIPTextModel.from_pretrained(OUT / "model" / "text_encoder", torch_dtype=torch.float32)
    return {"unet": unet.eval(), "text_encoder": text.eval()}


def make_inputs():
    ids = torch.randint(98, (2, 8), generator=torch.Generator().manual_seed(1))
    ids[:, 0], ids[0, 5:], ids[1, 7:] = 98, 99, 99
    return {
        "inputs.sample": normal("sample", (2, 4, 8, 8)),
        "inputs.timestep": torch.tensor([801, 40]),
        "inputs.encoder_hidden_states": normal("states", (2, 8, 16)),
        "inputs.input_ids": ids,
    }


@torch.no_grad()
def outputs(models, inputs):
    i = {k.split(".")[1]: v for k, v in inputs.items()}
    return {
        "unet": models["unet"](i["sample"], i["timestep"], i["encoder_hidden_states"]).sample,
        "text_encoder": models["text_encoder"](i["input_ids"]).last_hidden_state,
    }


def merged(base, adapters):
    """Copies of the models with [(layers, weight)] in their weights: the formula, in float64."""
    models = copy.deepcopy(base)
    for component, model in models.items():
        for path, module in adaptable(model, component).items():
            here = [(a[component][path], k) for a, k in adapters if path in a.get(component, {})]
            if not here:
                continue
            weight = module.weight.data.double()
            weight = weight + sum(k * layer.delta(weight.shape) for layer, k in here)
            if here[0][0].magnitude is not None:
                assert len(here) == 1
                factor = here[0][0].magnitude.double() / weight.flatten(1).norm(dim=1)
                weight *= factor.view(-1, *[1] * (weight.ndim - 1))
            module.weight.data = weight.float()
            for layer, k in here:
                if layer.bias is not None:
                    module.bias.data = (module.bias.data.double() + k * layer.scale * layer.bias.double()).float()
    return models
