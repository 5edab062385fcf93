#!/usr/bin/env python3
"""Writes tests/data/prompts/: what A1111's rule for prompts makes of the tiny pipelines' text encoders.

    python tools/reference/make_prompt_attention.py

attention.json         "chunks": the ids and weights of texts, for several lengths of a chunk
                       "embeddings": calls of encode_prompt, on pipelines of tests/data/pipelines/tiny.json
                       "pictures": calls of pipelines
attention.safetensors  for each of them the embeddings in float64, or diffusers' latents from these embeddings

transformers computes the hidden states, in float64. This script computes the rest by itself. compel, which has another
rule for weights, must agree where a prompt has none.
"""
import re

import torch
from common import DATA, check_versions, quiet, save_json, save_tensors, sizes
from make_tiny_pipelines import TOKENIZER, make_pipeline, pipelines

OUT = DATA / "prompts"
MOST_MOVED = 20  # tokens

# ---- The rule -------------------------------------------------------------------------------------------------------


def parts_of(prompt):
    """[text, weight, whether BREAK stands before it]"""
    parts, rounds, squares, at = [], [], [], 0

    def end(open_brackets, factor):
        first = open_brackets.pop()
        for part in parts[first:]:
            part[1] *= factor

    while at < len(prompt):
        c = prompt[at]
        weight = re.compile(r":\s*([+-]?[.0-9]+)\s*\)").match(prompt, at) if rounds else None
        if weight and weight[1].count(".") < 2 and weight[1].strip("+-.") != "":
            end(rounds, float(weight[1]))
            at = weight.end()
            continue
        at += 1
        if c == "\\":
            if prompt[at : at + 1] in tuple("()[]\\"):
                parts.append([prompt[at], 1.0, False])
                at += 1
        elif c == "(":
            rounds.append(len(parts))
        elif c == "[":
            squares.append(len(parts))
        elif c == ")" and rounds:
            end(rounds, 1.1)
        elif c == "]" and squares:
            end(squares, 1 / 1.1)
        elif c in ")]:":
            parts.append([c, 1.0, False])
        else:
            run = c
            while at < len(prompt) and prompt[at] not in "\\()[]:":
                run += prompt[at]
                at += 1
            for i, text in enumerate(re.split(r"\s*\bBREAK\b\s*", run)):
                parts.append([text, 1.0, i > 0])
    while rounds:
        end(rounds, 1.1)
    while squares:
        end(squares, 1 / 1.1)
    merged = []
    for text, weight, breaks in parts or [["", 1.0, False]]:
        if merged and not breaks and merged[-1][1] == weight:
            merged[-1][0] += text
        else:
            merged.append([text, weight, breaks])
    return merged


def weighted_ids(tokenizer, prompt):
    """The ids and weights between two BREAKs, for each of these pieces."""
    pieces = [[]]
    for text, weight, breaks in parts_of(prompt):
        if breaks:
            pieces.append([])
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        pieces[-1] += [(i, weight) for i in ids]
    return pieces


def chunks_of(tokenizer, prompt, length):
    """[ids, weights] for each chunk."""
    room, comma = length - 2, tokenizer(",", add_special_tokens=False)["input_ids"]
    assert len(comma) == 1 and room > MOST_MOVED
    pieces = []
    for piece in weighted_ids(tokenizer, prompt):
        while len(piece) > room:
            cut = room
            if piece[room][0] != comma[0]:
                commas = [i for i in range(room - MOST_MOVED, room) if piece[i][0] == comma[0]]
                cut = commas[-1] + 1 if commas else room
            pieces.append(piece[:cut])
            piece = piece[cut:]
        pieces.append(piece)
    if len(pieces) > 1 and not pieces[-1]:
        pieces.pop()
    chunks = []
    for piece in pieces:
        padding = room - len(piece)
        ids = [i for i, _ in piece]
        ids = [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id] + [tokenizer.pad_token_id] * padding
        chunks.append((ids, [1.0, *(w for _, w in piece), 1.0] + [1.0] * padding))
    return chunks


def weigh(states, weights):
    """One chunk, [tokens, width]."""
    product = states * torch.tensor(weights, dtype=torch.float64)[:, None]
    return product * (states.mean() / product.mean())


def clip(model, tokenizer, texts, chunk_count, clip_skip=None, last=False):
    """The embeddings of texts, and the pooled ones."""
    rows, pooled = [], []
    empty = chunks_of(tokenizer, "", tokenizer.model_max_length)
    for text in texts:
        chunks = chunks_of(tokenizer, text, tokenizer.model_max_length)
        states = []
        for i, (ids, weights) in enumerate(chunks + empty * (chunk_count - len(chunks))):
            out = model(torch.tensor([ids]), output_hidden_states=True)
            if not last:
                z = out.hidden_states[-2 - (clip_skip or 0)]
            elif clip_skip:
                z = model.text_model.final_layer_norm(out.hidden_states[-1 - clip_skip])
            else:
                z = out.last_hidden_state
            states.append(weigh(z[0], weights))
            if i == 0 and not last and hasattr(out, "text_embeds"):
                pooled.append(out.text_embeds[0])
        rows.append(torch.cat(states))
    return torch.stack(rows), torch.stack(pooled) if pooled else None


def t5(model, tokenizer, texts, length):
    rows = []
    for text in texts:
        tokens = [pair for piece in weighted_ids(tokenizer, text) for pair in piece][: length - 1]
        tokens.append((tokenizer.eos_token_id, 1.0))
        tokens += [(tokenizer.pad_token_id, 1.0)] * (length - len(tokens))
        states = model(torch.tensor([[i for i, _ in tokens]])).last_hidden_state[0]
        rows.append(weigh(states, [w for _, w in tokens]))
    return torch.stack(rows)


def encode(pipe, cls, prompt, prompt_2=None, prompt_3=None, clip_skip=None, max_sequence_length=256):
    """prompt_embeds and pooled embeddings of a list of prompts. All texts get the same number of chunks."""
    texts = [prompt, prompt_2 or prompt, prompt_3 or prompt]
    encoders = [(pipe.text_encoder, pipe.tokenizer), (getattr(pipe, "text_encoder_2", None), getattr(pipe, "tokenizer_2", None))]
    encoders = [(model, tokenizer) for model, tokenizer in encoders if model is not None]
    count = max(
        len(chunks_of(tokenizer, text, tokenizer.model_max_length))
        for (_, tokenizer), of_encoder in zip(encoders, texts)
        for text in of_encoder
    )
    last = cls == "StableDiffusion"
    results = [clip(m, t, of, count, clip_skip, last) for (m, t), of in zip(encoders, texts)]
    embeds = torch.cat([e for e, _ in results], -1)
    if cls == "StableDiffusion3":
        width = pipe.transformer.config.joint_attention_dim
        embeds = torch.nn.functional.pad(embeds, (0, width - embeds.shape[-1]))
        third = torch.zeros(len(prompt), max_sequence_length, width, dtype=torch.float64)
        if pipe.text_encoder_3 is not None:
            third = t5(pipe.text_encoder_3, pipe.tokenizer_3, texts[2], max_sequence_length)
        return torch.cat([embeds, third], 1), torch.cat([p for _, p in results], -1)
    return embeds, results[-1][1]


# ---- The cases ------------------------------------------------------------------------------------------------------

ODD = [
    "", "()", "(", "[", ")", "]", "\\", ":", "BREAK", "BREAK BREAK", "(red", "[red", "red) apple]", "(red:1.2",
    "(red:1.2.3) apple", "(red:) apple", "(red:x) apple", "((red:1.2) [apple]:0.7) owl", "\\(red\\) \\[apple\\]",
    "\\\\(red)", "re\\d", "(red [apple) owl]", "red: apple", "(red:0) apple", "(red:-0.5) apple", "(red: +1.5 ) apple",
    "BREAK red", "red BREAK", "red BREAK BREAK apple", "(red BREAK apple:1.3)", "redBREAK apple", "red,BREAK,apple",
    "[a|b] [red:blue:0.5]", "(RED apple) (red\napple:1.3)",
]  # fmt: skip
FILL = "red apple blue owl green cactus yellow rocket "


def long_texts(room):
    word = "owl "
    yield word * room
    yield word * (room + 1)
    yield word * (room - 1) + "," + word * 3  # the comma is the last token of a chunk
    yield word * room + ", " + word * 3  # the comma begins the next chunk
    for before in (room - MOST_MOVED - 1, room - MOST_MOVED, room - MOST_MOVED + 1, room - 3):
        yield word * before + ", " + "(" + "red " * 40 + ":1.3)"
    yield word * (room - 10) + "," + word * 4 + ", " + "red " * 9 + ", [" + "apple " * room + "]"
    yield word * 3 + ", BREAK " + word * (room + 2)
    yield word * room + "BREAK red"
    yield "".join(f"({w}:{1 + i / 10}), " for i, w in enumerate((FILL * 12).split()))


CASES = {
    "short": ["a (red:1.4) apple"],
    "nested": ["((red)) [apple] (on a (yellow:1.5) background:0.8)"],
    "no weights": ["red apple"],
    "long": [FILL * 9],
    "long, weights": [f"(red apple:1.5), {FILL * 4} [blue], " + FILL * 5 + "(owl:0.3)"],
    "break": ["(red:1.3) apple BREAK blue owl, cactus"],
    "unequal": [FILL * 5, "(green:1.2)", "", "red BREAK apple"],
    "negative weight": ["red (apple:-0.4) owl"],
}


def embedding_cases():
    rows = []

    def add(pipeline, name, prompt, **fields):
        rows.append(dict(name=f"{pipeline}: {name}", pipeline=pipeline, prompt=prompt, **fields))

    for pipeline in ("sd", "sdxl", "sd3", "sd35", "amused-256"):
        three = dict(max_sequence_length=40) if pipeline.startswith("sd3") else {}
        for name, prompt in CASES.items():
            add(pipeline, name, prompt, **three)
        if pipeline != "amused-256":
            add(pipeline, "clip skip", CASES["break"], clip_skip=1, **three)
        if pipeline.startswith("sd") and pipeline != "sd":
            add(pipeline, "second prompt", CASES["short"], prompt_2=CASES["break"], **three)
    add("sd35", "third prompt", CASES["break"], prompt_3=["a [red:1.2] (apple:1.2) " + FILL * 5], max_sequence_length=24)
    add("sdxl-refiner", "break", CASES["break"])
    return rows


def picture_cases():
    rows = []

    def add(pipeline, name, **fields):
        rows.append(dict(name=f"{pipeline}: {name}", pipeline=pipeline, num_inference_steps=3, seed=3, **fields))

    for pipeline in ("sd", "sdxl", "sd3", "sd35", "amused-256"):
        add(pipeline, "longer prompt", prompt=["(red:1.4) apple, " + FILL * 5], negative_prompt="[blue]")
        add(pipeline, "longer negative prompt", prompt=["(red) apple"], negative_prompt="blue BREAK (owl:1.3)")
        add(pipeline, "no negative prompt", prompt=["(red:1.3) apple BREAK owl"])
        add(pipeline, "two prompts", prompt=["(red:0.6) apple", "blue BREAK owl BREAK [cactus]"], negative_prompt="(green)")
    return rows


# ---- Drawing --------------------------------------------------------------------------------------------------------


def in_float64(pipe):
    for name in ("text_encoder", "text_encoder_2", "text_encoder_3"):
        if getattr(pipe, name, None) is not None:
            getattr(pipe, name).double()
    return pipe


def embeddings_of(spec, prompt, **fields):
    pipe = in_float64(make_pipeline(spec, "text"))
    if pipe.text_encoder is None:  # the refiner
        pipe.text_encoder, pipe.tokenizer, pipe.text_encoder_2 = pipe.text_encoder_2, pipe.tokenizer_2, None
    return encode(pipe, spec["cls"], prompt, **fields)


def draw(spec, row):
    prompts, negative = row["prompt"], row.get("negative_prompt")
    pipe = make_pipeline(spec, "text")
    # One call, so that all get the same number of chunks.
    embeds, pooled = embeddings_of(spec, [*prompts, negative or ""])
    embeds, pooled = embeds.float(), pooled if pooled is None else pooled.float()
    arguments = dict(prompt_embeds=embeds[:-1], negative_prompt_embeds=embeds[-1:].repeat(len(prompts), 1, 1))
    if pooled is not None:
        names = ("pooled_prompt_embeds", "negative_pooled_prompt_embeds")
        if spec["cls"] == "Amused":
            names = ("prompt_embeds", "negative_prompt_embeds")
            arguments = dict(encoder_hidden_states=arguments["prompt_embeds"],
                             negative_encoder_hidden_states=arguments["negative_prompt_embeds"])  # fmt: skip
        arguments |= {names[0]: pooled[:-1], names[1]: pooled[-1:].repeat(len(prompts), 1)}
    if negative is None and getattr(pipe.config, "force_zeros_for_empty_prompt", False):
        arguments |= {k: torch.zeros_like(v) for k, v in arguments.items() if k.startswith("negative")}
    out = pipe(output_type="latent", num_inference_steps=row["num_inference_steps"],
               generator=torch.Generator().manual_seed(row["seed"]), **arguments)  # fmt: skip
    return out[0] if isinstance(out, tuple) else out.images


def check_compel(specs):
    """Without weights and commas, compel cuts and embeds a prompt of any length as this rule does."""
    from compel import Compel, ReturnedEmbeddingsType

    for name in ("sd", "sdxl"):
        pipe = in_float64(make_pipeline(specs[name], "text"))
        text = FILL * 9
        kind = dict(truncate_long_prompts=False, dtype_for_device_getter=lambda device: torch.float64)
        embeds, pooled = encode(pipe, specs[name]["cls"], [text])
        if name == "sd":
            theirs = Compel(tokenizer=pipe.tokenizer, text_encoder=pipe.text_encoder, **kind)(text)
        else:
            penultimate = ReturnedEmbeddingsType.PENULTIMATE_HIDDEN_STATES_NON_NORMALIZED
            theirs, their_pooled = Compel(
                tokenizer=[pipe.tokenizer, pipe.tokenizer_2], text_encoder=[pipe.text_encoder, pipe.text_encoder_2],
                returned_embeddings_type=penultimate, requires_pooled=[False, True], **kind)(text)  # fmt: skip
            assert torch.allclose(pooled, their_pooled, rtol=1e-9, atol=1e-9), name
        assert embeds.shape[1] == 32 * 3 and torch.allclose(embeds, theirs, rtol=1e-9, atol=1e-9), name


@torch.no_grad()
def main():
    from transformers import CLIPTokenizer

    check_versions()
    quiet()
    specs, tensors = pipelines(), {}
    check_compel(specs)
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER)
    chunks = []
    for length in (32, 77):
        for text in (ODD if length == 32 else []) + list(long_texts(length - 2)):
            cut = chunks_of(tokenizer, text, length)
            chunks.append(dict(text=text, length=length, ids=[i for i, _ in cut], weights=[w for _, w in cut]))
    embeddings = embedding_cases()
    for row in embeddings:
        fields = {k: v for k, v in row.items() if k not in ("name", "pipeline", "prompt")}
        embeds, pooled = embeddings_of(specs[row["pipeline"]], row["prompt"], **fields)
        assert torch.isfinite(embeds).all(), row["name"]
        tensors[f"{row['name']}.prompt_embeds"] = embeds
        if pooled is not None:
            tensors[f"{row['name']}.pooled"] = pooled
        print(row["name"], list(embeds.shape), float(embeds.abs().max()))
    pictures = picture_cases()
    for row in pictures:
        tensors[f"{row['name']}.latents"] = draw(specs[row["pipeline"]], row)
        print(row["name"], list(tensors[f"{row['name']}.latents"].shape))
    save_json(dict(chunks=chunks, embeddings=embeddings, pictures=pictures), OUT / "attention.json")
    save_tensors(tensors, OUT / "attention.safetensors")
    print(sizes(OUT))


if __name__ == "__main__":
    main()
