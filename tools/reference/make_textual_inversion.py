#!/usr/bin/env python3
"""Writes tests/data/embeddings/: what diffusers' pipelines draw with words that load_textual_inversion() adds.

    python tools/reference/make_textual_inversion.py

inversions.json           "cases": a pipeline of tests/data/pipelines/tiny.json, a prompt and its words. A word has the
                          number of its vectors for each text encoder
inversions.safetensors    for each case the embeddings of the prompt, and the latents of a picture
a1111.pt                  a word of two vectors as A1111 saves it
learned_embeds.bin        a word of two vectors as diffusers' training script saves it

Vectors are made from the names "<case>.<word>.<text encoder>" (tiny.py), here and in the tests. diffusers' pipelines for
Stable Diffusion 3 and aMUSEd do not load words themselves: its loader loads them into their text encoders, and writes
out their prompts.
"""
import json

import torch
from common import DATA, check_versions, quiet, save_json, save_tensors, sizes
from diffusers.loaders import TextualInversionLoaderMixin
from make_tiny_pipelines import make_pipeline, pipelines
from tiny import noise

OUT = DATA / "embeddings"
ENCODERS = ("text_encoder", "text_encoder_2")
STEPS, SEED, LENGTH = 3, 5, 40

CASES = {
    "sd: one vector": dict(prompt="a qzv apple", words={"qzv": 1}),
    "sd: three vectors": dict(prompt="a qzv apple and a qzv", words={"qzv": 3}),
    "sd: the second vector": dict(prompt="a qzv_1 apple", words={"qzv": 3}),
    "sd: two words": dict(prompt="<kwx> in the style of qzv", words={"qzv": 2, "<kwx>": 1}),
    "sdxl: one vector": dict(prompt="a qzv apple", words={"qzv": 1}),
    "sdxl: two words": dict(prompt="<kwx> in the style of qzv", words={"qzv": 2, "<kwx>": 1}),
    "sd3: three vectors": dict(prompt="a qzv apple", words={"qzv": 3}),
    "amused-256: two vectors": dict(prompt="a qzv apple", words={"qzv": 2}),
}


class Loader(TextualInversionLoaderMixin):
    hf_device_map, components = None, {}


def vectors(case, word, encoder, count, width):
    return (0.3 * noise(f"{case}.{word}.{encoder}", (count, width))).float()


def encoders(pipe):
    for name in ENCODERS:
        if getattr(pipe, name, None) is not None:
            yield name, getattr(pipe, name), getattr(pipe, name.replace("text_encoder", "tokenizer"))


def load(pipe, case, words):
    own = pipe if isinstance(pipe, TextualInversionLoaderMixin) else Loader()
    for word, count in words.items():
        for name, model, tokenizer in encoders(pipe):
            width = model.get_input_embeddings().weight.shape[1]
            own.load_textual_inversion({word: vectors(case, word, name, count, width)}, text_encoder=model,
                                       tokenizer=tokenizer)  # fmt: skip
    return own


def draw(spec, case, row):
    pipe = make_pipeline(spec, "text")
    own, prompt = load(pipe, case, row["words"]), row["prompt"]
    if own is not pipe:
        prompt = own.maybe_convert_prompt(prompt, pipe.tokenizer)
    fields = dict(max_sequence_length=LENGTH) if spec["cls"] == "StableDiffusion3" else {}
    out = pipe(prompt, output_type="latent", num_inference_steps=STEPS, generator=torch.Generator().manual_seed(SEED),
               **fields)  # fmt: skip
    latents = out[0] if isinstance(out, tuple) else out.images
    states = {}
    for name, model, tokenizer in encoders(pipe):
        text = own.maybe_convert_prompt(row["prompt"], tokenizer)
        ids = tokenizer(text, padding="max_length", max_length=tokenizer.model_max_length, truncation=True)["input_ids"]
        states[f"{case}.{name}"] = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[-2]
    return {f"{case}.latents": latents, **states}


def write_pickles():
    """With the width of the first text encoder of "sd"."""
    width = json.loads((DATA / "pipelines/tiny.json").read_text())["pipelines"]["sd"]["components"]["text_encoder"][
        "hidden_size"
    ]
    rows = 0.3 * noise("pickles", (2, width)).float()
    a1111 = {
        "string_to_token": {"*": 265},
        "string_to_param": {"*": rows},
        "name": "an old name",
        "step": 1200,
        "sd_checkpoint": None,
        "sd_checkpoint_name": "model",
    }
    torch.save(a1111, OUT / "a1111.pt")
    torch.save({"<qzv>": rows}, OUT / "learned_embeds.bin")


@torch.no_grad()
def main():
    check_versions()
    quiet()
    specs, tensors = pipelines(), {}
    for case, row in CASES.items():
        tensors.update(draw(specs[case.split(":")[0]], case, row))
        print(case, list(tensors[f"{case}.latents"].shape))
    rows = [dict(name=case, pipeline=case.split(":")[0], **row) for case, row in CASES.items()]
    save_json(dict(steps=STEPS, seed=SEED, max_sequence_length=LENGTH, cases=rows), OUT / "inversions.json")
    save_tensors(tensors, OUT / "inversions.safetensors")
    write_pickles()
    print(sizes(OUT))


if __name__ == "__main__":
    main()
