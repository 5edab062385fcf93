"""Reference data for words that an adapter's file brings to prompts: tests/data/embeddings/.

  words.json        texts with their ids, from transformers' tokenizers after add_tokens; words of several vectors as
                    diffusers' maybe_convert_prompt writes them out
  clip.safetensors  what transformers' text encoders make of ids beyond their vocabulary, after resize_token_embeddings

Run from anywhere: python tools/reference/make_embeddings.py
"""

import torch
from common import DATA, ROOT, check_versions, quiet, save_json, save_tensors
from diffusers.loaders import TextualInversionLoaderMixin
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer, T5Tokenizer

OUT = DATA / "embeddings"
CLIP = DATA / "models" / "clip"

# Words and how many vectors they have.
WORDS = {
    "clip": {"qzv": 3, "MyToy": 1, "<s1>": 2, "v1.5 neon.look": 1, "größe☀": 2, "qz": 1},
    "t5": {"qzv": 3, "MyToy": 2, "<s1>": 2, "v1.5 neon.look": 1, "猫样": 2, "qz": 1},
}
TEXTS = [
    "qzv",
    "a qzv cat, the mytoy in snow",
    "MyToy MYTOY mytoy",
    "xqzvy qzv.qzv",
    "  qzv  (qzv:1.2) ",
    "QZV <S1> <s1>",
    "the second: qzv_1 and the last: qzv_2",
    "qz qzqz q zv",
    "V1.5   Neon.Look and v1.5 neon.look",
    "GRÖSSE☀ größe☀ Größe☀s 猫样 一只猫样。",
    "qzv_3 MyToy's MyToy",
    "no word of these",
]


def written_out(text, tokenizer):
    """`name` as `name name_1 …`. CLIP's tokenizer finds a word in either case, but diffusers writes out only what is
    spelt as the word is; so CLIP's texts and its words of several vectors are in lower case here."""
    text = text.lower() if isinstance(tokenizer, CLIPTokenizer) else text
    return TextualInversionLoaderMixin().maybe_convert_prompt(text, tokenizer)


def tokenizer_cases(tokenizer, words):
    for name, count in words.items():
        tokenizer.add_tokens([name, *(f"{name}_{i}" for i in range(1, count))])
    first = len(tokenizer) - sum(words.values())
    rows, next_id = [], first
    for name, count in words.items():
        rows.append({"text": name, "ids": list(range(next_id, next_id + count))})
        next_id += count
    cases = [{"text": t, "ids": tokenizer(written_out(t, tokenizer))["input_ids"]} for t in TEXTS]
    return {"words": rows, "cases": cases}


@torch.no_grad()
def encoder_cases():
    generator = torch.Generator().manual_seed(3)
    rows = 0.25 * torch.randn(4, 16, generator=generator)
    ids = torch.tensor([[62, 5, 64, 65, 66, 9, 63, 63, 63, 63, 63, 63], [62, 67, 3, 64, 40, 7, 8, 1, 2, 67, 67, 63]])
    tensors = {"rows": rows, "ids": ids}
    for name, cls in (("sd1", CLIPTextModel), ("projection", CLIPTextModelWithProjection)):
        model = cls.from_pretrained(CLIP / name).eval()
        model.resize_token_embeddings(68, mean_resizing=False)
        model.get_input_embeddings().weight[64:] = rows
        out = model(ids)
        tensors[f"{name}.last_hidden_state"] = out.last_hidden_state
    tensors["projection.text_embeds"] = out.text_embeds
    return tensors


def main():
    quiet()
    check_versions()
    tokenizers = {
        "clip": CLIPTokenizer.from_pretrained(ROOT / "models/tiny/tokenizer"),
        "t5": T5Tokenizer.from_pretrained(DATA / "tokenizers/t5"),
    }
    cases = {name: tokenizer_cases(tokenizers[name], words) for name, words in WORDS.items()}
    save_json(cases, OUT / "words.json")
    save_tensors(encoder_cases(), OUT / "clip.safetensors")


main()
