"""Makes tests/data/tokenizers/t5: a tiny Unigram tokenizer in both forms of file, and texts with the ids that
transformers' T5Tokenizer gives them, for its folder and for variants of it.

    python tools/reference/make_t5_tokenizer.py            tokenizer.json and cases.json, from spiece.model
    python tools/reference/make_t5_tokenizer.py --train    spiece.model first, from the words below

Training needs sentencepiece==0.2.1, which nothing else here does.
"""

import contextlib
import importlib.util
import json
import os
import random
import shutil
import struct
import sys
import tempfile
import unicodedata
from pathlib import Path

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

from transformers import T5Tokenizer  # noqa: E402

from make_tokenizers import LONG, TEXTS, random_texts, token  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data" / "tokenizers" / "t5"
MODEL = DATA / "spiece.model"

# ---- Training --------------------------------------------------------------------------------------------------------

WORDS = """
a an the of in on at with and or by from under over near between without into through behind very more most some two
astronaut horse cat dog fox owl dragon robot wizard knight castle tower bridge river mountain forest desert ocean island
city street market garden window door lamp candle mirror clock book letter map ship boat train bicycle car balloon kite
snow rain storm cloud fog sun moon star night morning evening winter summer autumn spring light shadow glow neon smoke
red green blue yellow purple orange golden silver black white pale dark bright vivid soft warm cold old young ancient
tiny small large huge giant tall long wooden stone glass metal paper velvet silk leather crystal marble rusty broken
riding walking running flying sleeping reading painting dancing singing sitting standing holding wearing looking smiling
portrait landscape photograph photo painting drawing sketch watercolor oil ink pencil pastel illustration poster pixel
art style detailed highly detail realistic cinematic dramatic lighting composition background foreground depth field
bokeh macro lens wide angle close up sharp focus blurred minimal abstract geometric pattern texture surreal fantasy
science fiction steampunk cyberpunk baroque gothic renaissance impressionist masterpiece quality best trending studio
café naïve façade jalapeño über größe smörgåsbord crème brûlée señor piñata Ångström Zürich São Paulo Kraków
woman man child girl boy king queen farmer sailor baker teacher doctor musician painter people crowd family friends
eating drinking cooking bread soup apple pear cherry lemon tea coffee wine honey rose tulip lily oak pine maple leaf
isn't it's don't you're we've 4k 8k 16mm 35mm 50mm f/1.8 1920 1984 2024 100 3.14 50% #1 & + = @ (worst:1.2) [low] {x}
Ελλάδα привет мир кошка 猫 犬 山 水 東京 写真 안녕 하늘 سلام नमस्ते 😀 🐱 ❤ “ ” ‘ ’ – — …
""".split()


def sentences():
    chance = random.Random(5)
    for word in WORDS:
        yield word
    for _ in range(4000):
        words = chance.choices(WORDS, k=chance.randint(3, 12))
        if chance.random() < 0.3:
            words[0] = words[0].capitalize()
        yield chance.choice([" ", ", ", " ", "; ", "-"]).join(words) + chance.choice(["", ".", "!", "?", ""])


def normalization_rules():
    """A part of what T5's own model does, which is NFKC and tidying: its map would be ten times as large as the rest."""
    rules = {}
    ranges = [(0xA0, 0x17F), (0x1C4, 0x1CC), (0x2000, 0x206F), (0x2100, 0x217F), (0x2460, 0x24FF), (0x3000, 0x3000)]
    ranges += [(0x3131, 0x318E), (0x3300, 0x33FF), (0xF900, 0xF920), (0xFB00, 0xFB06), (0xFE30, 0xFE4F)]
    ranges += [(0xFF01, 0xFFEE), (0x1D400, 0x1D433), (0x2F800, 0x2F804)]
    for first, last in ranges:
        for c in range(first, last + 1):
            if (nfkc := unicodedata.normalize("NFKC", chr(c))) != chr(c):
                rules[chr(c)] = nfkc
    marks = "\u0300\u0301\u0302\u0303\u0308\u030a\u0323"
    for base in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ\u0438\u0415":
        for mark in marks + "\u0306":
            for more in ["", "\u0323", "\u0301"]:
                composed = unicodedata.normalize("NFKC", base + mark + more)
                if composed != base + mark + more:
                    rules[base + mark + more] = composed
    for c in [0x9, 0xA, 0xC, 0xD, 0x85, 0x1680, 0x2028, 0x2029, 0x200B, 0x200E, 0x200F, 0xFEFF]:
        rules[chr(c)] = " "
    for c in [*range(1, 9), 0xB, *range(0xE, 0x20), 0x7F, 0x8F, 0xAD, 0x200C, 0x200D, 0x2060]:
        rules[chr(c)] = ""
    return rules


def train():
    import sentencepiece

    def codes(text):
        return " ".join(f"{ord(c):X}" for c in text)

    rules = sorted(normalization_rules().items())
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):  # the model has the names of its files
        Path("rules.tsv").write_text("".join(f"{codes(a)}\t{codes(b)}\n" for a, b in rules))
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=sentences(), model_prefix="spiece", vocab_size=900, model_type="unigram",
            character_coverage=1.0, pad_id=0, eos_id=1, unk_id=2, bos_id=-1, num_threads=1,
            normalization_rule_tsv="rules.tsv", minloglevel=2, hard_vocab_limit=False,
        )  # fmt: skip
        DATA.mkdir(parents=True, exist_ok=True)
        MODEL.write_bytes(Path("spiece.model").read_bytes())


# ---- The model's file --------------------------------------------------------------------------------------------------


def fields(data):
    """(number, value) of a protocol buffer's fields."""

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    at = 0
    while at < len(data):
        key = varint()
        if key & 7 == 0:
            yield key >> 3, varint()
            continue
        size = {1: 8, 5: 4}.get(key & 7) or varint()
        yield key >> 3, data[at : at + size]
        at += size


def pieces_and_charsmap():
    pieces, charsmap = [], None
    for number, value in fields(MODEL.read_bytes()):
        if number == 1:
            piece = dict(fields(value))
            pieces.append((piece[1].decode(), struct.unpack("<f", piece[2])[0] if 2 in piece else 0.0))
        if number == 3:
            charsmap = dict(fields(value))[2]
    return pieces, charsmap


def from_sentencepiece(extra_ids=100):
    """What transformers builds of spiece.model, where there are packages to read it."""
    pieces, charsmap = pieces_and_charsmap()
    pieces += [(f"<extra_id_{i}>", 0.0) for i in range(extra_ids - 1, -1, -1)]
    return T5Tokenizer(vocab=pieces, _spm_precompiled_charsmap=charsmap, extra_ids=extra_ids)


def tokenizer_json(**changes):
    return json.loads(from_sentencepiece().backend_tokenizer.to_str()) | changes


# ---- Texts and folders -----------------------------------------------------------------------------------------------

# Beside make_tokenizers.py's: tokens written out, the mark of spaces, characters that the map knows, next to others.
SPECIAL = [
    "", "</s>", "<pad>", "<unk>", "<extra_id_0>", "a <extra_id_0> b", "a<extra_id_1>b", "a  <extra_id_99>  b", "<extra_id_100>",
    "<extra_id_0><extra_id_1>", "<extra_id_", "<EXTRA_ID_0>", "a </s> b", "a</s>b</s>", "cat <unk>cat<unk>\u732b", "<pad> cat<pad>",
    "<ex\u00adtra_id_0>", "\uff1cpad\uff1e", "\u2581", "\u2581\u2581", "a\u2581b", "\u2581a", "a \u2581 b", "a\u2581", "\u2581\u2581cat\u2581\u2581\u2581dog",
    "\u2581<extra_id_0>\u2581", "\ufb01re \ufb00 \ufb03", "\uff21\uff22\uff23 \uff11\uff12", "\u2460\u2461 \u33a1 \u3392", "\u2122\u2122", "\u2026",
    "e\u0301", "e\u0301e\u0301", "x\u0301", "e\u0323\u0301", "e\u0301\u0323", "\ufb01\u0301", "\u00b2\u0301 cat", "\uff21\u0301", "\u2075\u0301x", "\u00bd\u0308\u0301",
    "\u00aa\u200d", "\u00aa\u0301\u0301", "\u00aa\u0301\u0301\u0301", "\u00a0\u0301cat", "\u3000\u0301cat", "\u200b\u0301", "\u0001\u0301a", "\u0600\u00aa", "\u0600\uff21",
    "\r\n", "a\r\nb", "a\rb\nc", "a\n\rb", "\u1100\u1161\u11a8", "\u3131\u314f", "\uff76\uff9e", "\U0001d400\U0001d401", "\U0002f800", "\u0915\u094d\u0937",
    "a\u00adb", "a\u200db", "a\u0000b", "\u0000", "\u00aa\u0000", "\ufeffcat", "cat\ufeff", " \u00ad ", "\u00ad", "\u00ad\u00ad cat", "\u0009\u0009", "a\u0085b\u2028c",
    "<foo>", "a <foo> cat", "a<foo>b", "cat", "a cat", "cats concatenate", "CAT Cat", "<bar>", "a <bar>b \uff1cbar\uff1e", "cr\u00e8me br\u00fbl\u00e9e", "cre\u0300me bru\u0302le\u0301e",
    "xqzxqz", "\u732b\u6c34\u732b", "\u732b cat \U00020000\U00020001", "\U00020000", "Don't . Stop , now ! it 's ok ? we 've n't ' x '",
]  # fmt: skip

# "m" is where sums in float32 choose another of several equal ways.
REPEATED = ["m" * 9, "m" * 15, "m" * 35, "a" * 300, "ab" * 200, "e" * 77, "an" * 99 + "a", "!" * 250, "." * 301]
REPEATED += ["=" * 64 + "-" * 65, "cat" * 90, "1234567890" * 30, "\u00e9" * 120, "e\u0301" * 120, "\U0001f600" * 60]
REPEATED += ["the " * 254, "the " * 255, "the " * 256, "the " * 255 + "<extra_id_0>"]

CONFIG = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>", "model_max_length": 512}
EXTRA = [f"<extra_id_{i}>" for i in range(100)]


def published_config(size):
    """As it stands with Stable Diffusion 3."""
    special = [token(content, normalized=False, special=True) for content in ("<pad>", "</s>", "<unk>")]
    wide = {"lstrip": True, "rstrip": True, "special": True}
    added = dict(enumerate(special))
    added |= {size + 99 - i: token(name, normalized=False) | wide for i, name in enumerate(EXTRA)}
    return CONFIG | {
        "add_prefix_space": True, "added_tokens_decoder": {str(i): t for i, t in added.items()},
        "additional_special_tokens": EXTRA, "clean_up_tokenization_spaces": True, "extra_ids": 100, "legacy": True,
        "sp_model_kwargs": {}, "tokenizer_class": "T5Tokenizer",
    }  # fmt: skip


def variants(size):
    """Files beside spiece.model; with a tokenizer.json, that is read and not spiece.model."""
    normalizer = tokenizer_json()["normalizer"]
    steps = [{"type": "Lowercase"}, normalizer, {"type": "Strip", "strip_left": True, "strip_right": True}]
    published = {"tokenizer_config.json": published_config(size)}
    listed = {"tokenizer_config.json": CONFIG | {"additional_special_tokens": ["<foo>", "cat"]}}
    named = {"added_tokens.json": {"<foo>": size + 100, "<bar>": size + 101}}
    ten = {"tokenizer_config.json": CONFIG | {"extra_ids": 10}}
    return {
        "spiece": {},
        "spiece_published": published,
        "spiece_listed_tokens": listed,
        "spiece_ten_extra_ids": ten,
        "spiece_added_tokens": named,
        "json": {"tokenizer.json": tokenizer_json()},
        "json_published": {"tokenizer.json": tokenizer_json()} | published,
        "json_listed_tokens": {"tokenizer.json": tokenizer_json()} | listed,
        "json_ten_extra_ids": {"tokenizer.json": tokenizer_json()} | ten,
        "json_added_tokens": {"tokenizer.json": tokenizer_json()} | named,
        "json_split_special_tokens": {
            "tokenizer.json": tokenizer_json(),
            "tokenizer_config.json": CONFIG | {"split_special_tokens": True},
        },
        "json_without_added_tokens": {"tokenizer.json": tokenizer_json(added_tokens=[])},
        "json_without_normalizer": {"tokenizer.json": tokenizer_json(normalizer=None)},
        "json_other_steps": {
            "tokenizer.json": tokenizer_json(
                normalizer={"type": "Sequence", "normalizers": steps}, pre_tokenizer=None, post_processor=None
            ),
        },
    }


def open_tokenizer(files, folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    if "tokenizer.json" not in files:
        if all(importlib.util.find_spec(package) for package in ("sentencepiece", "google.protobuf")):
            shutil.copy(MODEL, folder)
        else:  # the same, by way of the other form
            extra_ids = files.get("tokenizer_config.json", {}).get("extra_ids", 100)
            whole = json.loads(from_sentencepiece(extra_ids).backend_tokenizer.to_str()) | {"added_tokens": []}
            (folder / "tokenizer.json").write_text(json.dumps(whole))
    return T5Tokenizer.from_pretrained(folder)


def case(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=True).input_ids
    arguments = {"padding": "max_length", "truncation": True, "add_special_tokens": True}
    return {
        "text": text,
        "ids": ids,
        "padded": tokenizer(text, max_length=8, **arguments).input_ids,
        "truncated": tokenizer.batch_decode([ids[7:-1]])[0] if len(ids) > 8 else "",
        "decoded": tokenizer.decode(ids),
    }


def decodings(tokenizer):
    chance = random.Random(7)
    lists = [[], [0], [1, 1], [99999], [9, 99999, 9], [9, 9, 9, 591]]
    lists += [[chance.randrange(1010) for _ in range(chance.randint(1, 12))] for _ in range(20)]
    return [{"ids": ids, "text": tokenizer.decode(ids)} for ids in lists]


def main():
    (DATA / "tokenizer.json").write_text(json.dumps(tokenizer_json(), ensure_ascii=False, separators=(",", ":")) + "\n")
    groups = []
    with tempfile.TemporaryDirectory() as parent:
        for name, files in variants(len(pieces_and_charsmap()[0])).items():
            tokenizer = open_tokenizer(files, Path(parent) / "tokenizer")
            texts = SPECIAL + TEXTS + REPEATED + LONG + random_texts(150, 11) if name == "spiece" else SPECIAL
            shown = dict(files)
            if "tokenizer.json" in shown:  # but for what differs, which the test puts in
                shown["tokenizer.json"] = {k: v for k, v in files["tokenizer.json"].items() if v != tokenizer_json()[k]}
            groups.append({
                "name": name,
                "files": shown,
                "vocab_size": tokenizer.vocab_size,
                "cases": [case(tokenizer, text) for text in dict.fromkeys(texts)],
                "decodings": decodings(tokenizer),
            })  # fmt: skip
    lines = json.dumps(groups, separators=(",", ":")).replace('{"text"', '\n{"text"').replace('{"name"', '\n{"name"')
    (DATA / "cases.json").write_text(lines + "\n")


if __name__ == "__main__":
    if "--train" in sys.argv:
        train()
    main()
