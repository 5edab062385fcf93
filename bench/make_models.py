#!/usr/bin/env python3
"""Full-size models with random weights for the benchmarks, and LoRAs for them. What is there already is kept.

    python bench/make_models.py build/bench [--dtypes float16 bfloat16 float32] [--sdxl] [--rank 16]

Writes CACHE/sd15-DTYPE (Stable Diffusion 1.5 as a diffusers folder: 2.1 GB in the half types, 4.3 GB in float32) and
CACHE/loras/{kohya,peft}-{0,1,2}.safetensors: float16, over the 264 layers that kohya trains by default (the 192 of the
UNet's transformers and the 72 of the text encoder). With --sdxl also CACHE/sdxl-bfloat16 (6.9 GB) and
CACHE/loras/sdxl-{0,1}.safetensors, as PEFT names them, over the 722 layers of the UNet's transformers and the 264 of the
two text encoders.
"""
import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

TOKENIZER = Path(__file__).resolve().parents[1] / "models" / "tiny" / "tokenizer"
UNET = dict(sample_size=64, cross_attention_dim=768, attention_head_dim=8, block_out_channels=(320, 640, 1280, 1280))
TEXT = dict(
    vocab_size=49408,
    hidden_size=768,
    intermediate_size=3072,
    num_hidden_layers=12,
    num_attention_heads=12,
    projection_dim=768,
    hidden_act="quick_gelu",
    bos_token_id=49406,
    eos_token_id=49407,
    pad_token_id=49407,
)
XL_UNET = dict(
    sample_size=128,
    cross_attention_dim=2048,
    attention_head_dim=[5, 10, 20],
    block_out_channels=(320, 640, 1280),
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    transformer_layers_per_block=[1, 2, 10],
    use_linear_projection=True,
    addition_embed_type="text_time",
    addition_time_embed_dim=256,
    projection_class_embeddings_input_dim=2816,
)
XL_TEXT_2 = {**TEXT, "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20,
             "projection_dim": 1280, "hidden_act": "gelu"}  # fmt: skip
VAE = dict(
    latent_channels=4,
    block_out_channels=(128, 256, 512, 512),
    layers_per_block=2,
    sample_size=512,
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
)


class Noise:
    """Uniform numbers, cut from one pool over and over: a model's size of them costs a copy, not a draw each."""

    def __init__(self, dtype, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.pool = (torch.rand(1 << 24, generator=generator) * 2 - 1).to(dtype)
        self.at = 0

    def __call__(self, shape, bound):
        n = torch.Size(shape).numel()
        out = torch.empty(n, dtype=self.pool.dtype)
        done = 0
        while done < n:
            part = self.pool[self.at : self.at + n - done]
            torch.mul(part, bound, out=out[done : done + len(part)])
            done += len(part)
            self.at = (self.at + len(part)) % len(self.pool)
        return out.view(shape)


def weights(model, noise, prefix=""):
    out = {}
    for name, tensor in model.state_dict().items():
        if tensor.ndim > 1:
            out[prefix + name] = noise(tensor.shape, tensor[0].numel() ** -0.5)
        else:
            one = "norm" in name and name.endswith("weight")
            out[prefix + name] = torch.full(tensor.shape, float(one), dtype=noise.pool.dtype)
    return out


def skeletons():
    """The modules without their weights."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        return UNet2DConditionModel(**UNET), CLIPTextModel(CLIPTextConfig(**TEXT)), AutoencoderKL(**VAE)


def xl_skeletons():
    """By component."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    with torch.device("meta"):
        return {
            "unet": UNet2DConditionModel(**XL_UNET),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**TEXT)),
            "text_encoder_2": CLIPTextModelWithProjection(CLIPTextConfig(**XL_TEXT_2)),
            "vae": AutoencoderKL(**VAE, scaling_factor=0.13025, force_upcast=False),
        }


def text_level(model):
    """transformers 5 has no such level in a CLIPTextModel's names, files have."""
    return "text_model." if type(model).__name__ == "CLIPTextModel" else ""


def write_tokenizer(folder):
    """The embedded model's words, filled up to CLIP's number of tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    words = list(json.loads((TOKENIZER / "vocab.json").read_text()))[:-2]
    words += [f"<unused{i}>" for i in range(49406 - len(words))] + ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(words)}, ensure_ascii=False))
    for name in ("merges.txt", "special_tokens_map.json"):
        (folder / name).write_text((TOKENIZER / name).read_text())
    config = json.loads((TOKENIZER / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "model_max_length": 77}, indent=2) + "\n")


def write_pipeline(folder, dtype, models):
    from diffusers import DDIMScheduler

    unet, text, vae = models
    noise = Noise(dtype)
    for part, model, name in (("unet", unet, "diffusion_pytorch_model"), ("vae", vae, "diffusion_pytorch_model")):
        model.save_config(folder / part)
        save_file(weights(model, noise), folder / part / f"{name}.safetensors", {"format": "pt"})
    text.config.architectures = ["CLIPTextModel"]
    text.config.save_pretrained(folder / "text_encoder")
    save_file(weights(text, noise, "text_model."), folder / "text_encoder" / "model.safetensors", {"format": "pt"})
    write_tokenizer(folder / "tokenizer")
    betas = dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    scheduler = DDIMScheduler(**betas, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    scheduler.save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.42.1",
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")  # last: its presence says all is there


def write_xl_pipeline(folder, models):
    from diffusers import EulerDiscreteScheduler

    noise = Noise(torch.bfloat16)
    index = {"_class_name": "StableDiffusionXLPipeline", "_diffusers_version": "0.42.1"}
    index |= {"force_zeros_for_empty_prompt": True, "feature_extractor": [None, None], "image_encoder": [None, None]}
    for part, model in models.items():
        text = part.startswith("text")
        name = "model" if text else "diffusion_pytorch_model"
        index[part] = ["transformers" if text else "diffusers", type(model).__name__]
        if text:
            model.config.architectures = [type(model).__name__]
            model.config.save_pretrained(folder / part)
            tokenizer = part.replace("text_encoder", "tokenizer")
            write_tokenizer(folder / tokenizer)
            index[tokenizer] = ["transformers", "CLIPTokenizer"]
        else:
            model.save_config(folder / part)
        save_file(weights(model, noise, text_level(model)), folder / part / f"{name}.safetensors", {"format": "pt"})
    betas = dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    EulerDiscreteScheduler(**betas, steps_offset=1, timestep_spacing="leading").save_pretrained(folder / "scheduler")
    index["scheduler"] = ["diffusers", "EulerDiscreteScheduler"]
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def write_xl_loras(folder, rank, models):
    for i in range(2):
        noise, tensors = Noise(torch.bfloat16, seed=i + 1), {}
        for part, model in models.items():
            for path, module in model.named_modules():
                trained = "attentions" in path or (part.startswith("text") and "layers" in path)
                if part == "vae" or not trained or not isinstance(module, torch.nn.Linear):
                    continue
                out, wide = module.weight.shape
                name = f"{part}.{text_level(model)}{path}"
                tensors[f"{name}.lora_A.weight"] = noise((rank, wide), wide**-0.5)
                tensors[f"{name}.lora_B.weight"] = noise((out, rank), 0.02 * rank**-0.5)
        assert len(tensors) == 2 * (722 + 264), len(tensors)
        save_file(tensors, folder / f"sdxl-{i}.safetensors", {"format": "pt"})


def trained_layers(unet, text):
    """(kohya's prefix, PEFT's prefix, path, weight) of each."""
    for path, module in unet.named_modules():
        linear = isinstance(module, torch.nn.Linear)
        pointwise = isinstance(module, torch.nn.Conv2d) and module.kernel_size == (1, 1)
        if "attentions" in path and (linear or pointwise):
            yield "lora_unet_", "unet.", path, module.weight
    for path, module in text.named_modules():
        if isinstance(module, torch.nn.Linear) and "layers" in path:
            yield "lora_te_", "text_encoder.", "text_model." + path.removeprefix("text_model."), module.weight


def write_loras(folder, rank, models):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(3):
        noise = Noise(torch.float16, seed=i + 1)
        kohya, peft = {}, {}
        for k, p, path, weight in trained_layers(*models[:2]):
            ones = (1,) * (weight.ndim - 2)
            A = noise((rank, weight.shape[1], *ones), weight.shape[1] ** -0.5)
            B = noise((weight.shape[0], rank, *ones), 0.02 * rank**-0.5)
            peft[f"{p}{path}.lora_A.weight"], peft[f"{p}{path}.lora_B.weight"] = A, B
            name = k + path.replace(".", "_")
            kohya[name + ".lora_down.weight"], kohya[name + ".lora_up.weight"] = A, B
            kohya[name + ".alpha"] = torch.tensor(rank / 2, dtype=torch.float16)
        assert len(peft) == 2 * 264, len(peft)
        about = {"module": "networks.lora", "dim": rank, "alpha": rank / 2}
        metadata = {f"ss_network_{k}": str(v) for k, v in about.items()}
        save_file(kohya, folder / f"kohya-{i}.safetensors", metadata)
        save_file(peft, folder / f"peft-{i}.safetensors", {"format": "pt"})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--dtypes", nargs="*", default=["float16"], choices=["float16", "bfloat16", "float32"])
    parser.add_argument("--sdxl", action="store_true")
    parser.add_argument("--rank", type=int, default=16)
    args = parser.parse_args()
    wanted = [d for d in args.dtypes if not (args.cache / f"sd15-{d}" / "model_index.json").exists()]
    loras = not (args.cache / "loras" / "peft-2.safetensors").exists()
    xl = args.cache / "sdxl-bfloat16"
    if args.sdxl and not (xl / "model_index.json").exists():
        models = xl_skeletons()
        write_xl_pipeline(xl, models)
        (args.cache / "loras").mkdir(exist_ok=True)
        write_xl_loras(args.cache / "loras", args.rank, models)
        print(xl)
    if not wanted and not loras:
        return
    models = skeletons()
    for name in wanted:
        write_pipeline(args.cache / f"sd15-{name}", getattr(torch, name), models)
        print(args.cache / f"sd15-{name}")
    if loras:
        write_loras(args.cache / "loras", args.rank, models)
        print(args.cache / "loras")


if __name__ == "__main__":
    main()
