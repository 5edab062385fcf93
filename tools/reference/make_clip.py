"""Reference data for the CLIP text encoder: tests/data/models/clip/, from transformers.

A folder a model, as save_pretrained writes it, with expected.safetensors beside: ids, and what the model makes of
them. Run from anywhere: python tools/reference/make_clip.py
"""

import pathlib
import shutil

import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

OUT = pathlib.Path(__file__).resolve().parents[2] / "tests/data/models/clip"

COMMON = dict(vocab_size=64, hidden_size=16, intermediate_size=32, max_position_embeddings=12, projection_dim=12)
MODELS = {
    # As in Stable Diffusion 1: the end token is the vocabulary's last, whatever eos_token_id says.
    "sd1": (CLIPTextModel, dict(num_hidden_layers=3, num_attention_heads=2, hidden_act="quick_gelu", eos_token_id=2)),
    # As in Stable Diffusion 2, where padding is a token of its own.
    "sd2": (CLIPTextModel, dict(num_hidden_layers=3, num_attention_heads=4, hidden_act="gelu", eos_token_id=2)),
    # As SDXL's second encoder, with an eos_token_id that means it.
    "projection": (
        CLIPTextModelWithProjection,
        dict(num_hidden_layers=2, num_attention_heads=1, hidden_act="gelu", eos_token_id=63, layer_norm_eps=1e-6),
    ),
}
START, END = 62, 63
IDS = torch.tensor(
    [
        [START, 5, 17, 3, 40, END, END, END, END, END, END, END],  # padded with the end token
        [START, 9, 8, 7, 6, 5, 4, 3, 2, 1, 11, END],  # full
        [START, END, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],  # nothing but padding
        [START, 20, 2, 21, END, 22, END, 23, 24, 25, 26, 27],  # ends twice; has token 2
    ]
)


def spread(model):
    """Weights of everyday size: as initialised, a model of this size hardly departs from its embeddings."""
    generator = torch.Generator().manual_seed(1)
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=generator)
        p.data = 1 + 0.2 * noise if "norm" in name and name.endswith("weight") else 0.25 * noise


def expected(model, ids, short):
    out = model(ids, output_hidden_states=True)
    result = {"last_hidden_state": out.last_hidden_state, "short.last_hidden_state": model(short).last_hidden_state}
    for i, h in enumerate(out.hidden_states):
        result[f"hidden_states.{i}"] = h
    if hasattr(out, "text_embeds"):
        result["text_embeds"] = out.text_embeds
        inner = model.text_model
    else:
        result["pooler_output"] = out.pooler_output
        inner = model
    for skip in range(len(out.hidden_states)):  # as StableDiffusionPipeline.encode_prompt
        result[f"clip_skip.{skip}"] = inner.final_layer_norm(out.hidden_states[-(skip + 1)])
    return result


@torch.no_grad()
def main():
    shutil.rmtree(OUT, ignore_errors=True)
    for name, (cls, fields) in MODELS.items():
        model = cls(CLIPTextConfig(**COMMON, **fields, pad_token_id=0, bos_token_id=START)).eval()
        spread(model)
        model.save_pretrained(OUT / name)
        data = {"ids": IDS, "short.ids": IDS[:1, :6].clone()}
        data |= expected(model, IDS, data["short.ids"])
        half = expected(model.bfloat16(), IDS, data["short.ids"])
        data |= {f"bfloat16.{k}": half[k] for k in ("last_hidden_state", "hidden_states.1")}
        save_file({k: v.clone() for k, v in data.items()}, OUT / name / "expected.safetensors")
    keys = list(load_file(OUT / "sd1" / "model.safetensors"))
    print(len(keys), keys[0], sum(f.stat().st_size for f in OUT.rglob("*") if f.is_file()))


main()
