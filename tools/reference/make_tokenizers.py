"""Writes what the tokenizer is built from and tested with, all of it asked of transformers' CLIPTokenizer:

  src/tokenizers/unicode_tables.cpp     letters, numbers and lower case as the reference sees them
  tests/data/tokenizers/tokenizer.json  models/tiny/tokenizer in its one-file form
  tests/data/tokenizers/cases.json      texts with their ids, for that folder and for variants of its files

Needs transformers 5.23.0. Run it from anywhere: python tools/reference/make_tokenizers.py
"""

import json
import os
import random
import shutil
import tempfile
from pathlib import Path

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

from tokenizers import Regex, normalizers, pre_tokenizers  # noqa: E402
from transformers import CLIPTokenizer  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "models/tiny/tokenizer"
DATA = ROOT / "tests/data/tokenizers"
SCALARS = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]


# ---- Tables ----------------------------------------------------------------------------------------------------------


def members(pattern):
    """Code points that match `pattern`."""
    split = pre_tokenizers.Split(Regex(pattern), behavior="removed", invert=True)
    found = set()
    for i in range(0, len(SCALARS), 4096):
        for piece, _ in split.pre_tokenize_str("".join(SCALARS[i : i + 4096])):
            found.update(map(ord, piece))
    return sorted(found)


def char_ranges(points):
    ranges = []
    for c in points:
        if ranges and ranges[-1][1] == c - 1:
            ranges[-1][1] = c
        else:
            ranges.append([c, c])
    return ranges


def case_ranges():
    """[first, last, step, shift] over the characters whose lower case is one other character."""
    lower = normalizers.Lowercase()
    ranges = []
    for char in SCALARS:
        low = lower.normalize_str(char)
        if low == char:
            continue
        if len(low) > 1:
            assert char == "\u0130" and low == "i\u0307", "a new special case: unicode.cpp must know it"
            continue
        c, shift = ord(char), ord(low) - ord(char)
        if ranges and ranges[-1][3] == shift:
            first, last, step, _ = ranges[-1]
            if c - last == step or (first == last and c - last == 2):
                ranges[-1][1:3] = c, c - last
                continue
        ranges.append([c, c, 1, shift])
    return ranges


def rows(ranges):
    """Lines of at most 120 columns."""
    lines, line = [], "   "
    for r in ranges:
        item = " {" + ", ".join([f"{x:#x}" for x in r[:2]] + [str(x) for x in r[2:]]) + "},"
        if len(line) + len(item) > 120:
            lines.append(line)
            line = "   "
        line += item
    return "\n".join(lines + [line])


def write_tables():
    tables = [
        ("letter_ranges", "CharRange", "kLetters", char_ranges(members(r"\p{L}+"))),
        ("number_ranges", "CharRange", "kNumbers", char_ranges(members(r"\p{N}+"))),
        ("lower_case_ranges", "CaseRange", "kLowerCase", case_ranges()),
    ]
    text = "// Written by tools/reference/make_tokenizers.py; change that.\n// clang-format off\n"
    text += '#include "tokenizers/unicode.h"\n\nnamespace lora {\n\n'
    for _, kind, name, ranges in tables:
        text += f"static constexpr {kind} {name}[] = {{\n{rows(ranges)}\n}};\n\n"
    for function, kind, name, _ in tables:
        text += f"std::span<const {kind}> {function}() {{ return {name}; }}\n"
    (ROOT / "src/tokenizers/unicode_tables.cpp").write_text(text + "\n}  // namespace lora\n")
    spaces = char_ranges(members(r"\s+"))
    assert sum(b - a + 1 for a, b in spaces) == 25, "unicode.cpp lists the white space"


# ---- Texts -----------------------------------------------------------------------------------------------------------

TEXTS = """
|a|an astronaut riding a horse|A Photograph of An Astronaut Riding A HORSE, 4K, Highly-Detailed!!!
a fox; pixel art|(masterpiece:1.2), [best quality], {soft light} <lora:pixel:0.8>|oil painting -- "still life" -- 1632
it's isn't you're we've i'm they'll he'd|IT'S ISN'T YOU'RE WE'VE I'M THEY'LL HE'D|it\u2019s you\u2019re \u2018quoted\u2019
's't're've'm'll'd|'S'T'RE'VE|''s '' 's|rock'n'roll o'clock 'tis|'sun 'tree 'red 'very 'moon 'llama 'door|x'LLx'Dx
0 1 12 123 1234567890 3.14 1,000,000 -7 1e10 0x1F|\u00bd \u00b2 \u2167 \u2460 \u096a\u0967 \u0661\u0662\u0663 \u3007 \u4e09 \U0001d7d8
!|!!|!!!|... --- === *** ///|?!?!?!|#tag @user $5 50% ^_^ :-) <3 ~/.bashrc|!'s!'t.'re|\u00a1hola! \u00bfqu\u00e9 tal?|\u2026\u2014\u2013\u2022\u201c\u201d\u00ab\u00bb
https://example.org/a/b?c=d&e=%20f#g|user.name+tag@mail.example.co.uk|C:\\Users\\me\\file.txt|/usr/local/lib/libfoo.so.1
for (int i = 0; i < n; ++i) { sum += a[i] * 0.5f; }|def f(x): return [y**2 for y in x if y != None]|SELECT * FROM t WHERE a='b';|<b>bold</b> &amp; &lt;
 leading|trailing |  two  spaces  |a\tb\nc\r\nd\u000be\u000cf|\u0020|\t\n|\u00a0a\u00a0b\u00a0|\u3000\u4e00\u3000\u4e8c|a\u200bb|a\u0085b|\u001ca\u001db\u001ee\u001ff
a\u1680b\u2000c\u2001d\u2002e\u2003f\u2004g\u2005h\u2006i\u2007j\u2008k\u2009l\u200am|a\u2028b\u2029c\u202fd\u205fe|\u180ea\u2060b\ufeffc\u200cd\u200de\u00adf
a\u0000b|\u0000|\u0001\u0002\u0007\u0008\u001b[0m\u007f|a\u0080b\u009fc|\ufffd\ufffe\uffff|\U0010ffff\U000e0041\ue000
\U0001f600|\U0001f600\U0001f601|\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 family|\U0001f1e9\U0001f1ea \U0001f1fa\U0001f1f8 flags|\U0001f44d\U0001f3fd \U0001f44d\U0001f3ff|\u2764\ufe0f \u2764|1\ufe0f\u20e3|\U0001f3f4\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f|cat\U0001f431cat
caf\u00e9|cafe\u0301|CAF\u00c9 CAFE\u0301|\u00c5ngstr\u00f6m A\u030angstro\u0308m \u212bngstrom|n\u0303 \u00f1 N\u0303|s\u0323\u0307 s\u0307\u0323 \u1e69|\u0301abc|a\u0301\u0302\u0303\u0304|e\u0327\u0301 e\u0301\u0327|q\u0307\u0323
\u0340 \u0341 \u0343 \u0344 \u0374 \u037e \u0387|\u2126 \u212a \u2329 \u232a|\u0958 \u0915\u093c \u09dc|\ufb1d \ufb2a \u05e9\u05c1|\U0001d15e \U0001d1bb|\u0f73 \u0f75 \u0f81|\u0f71\u0f72
\u03c3\u03af\u03c3\u03c5\u03c6\u03bf\u03c2|\u03a3\u038a\u03a3\u03a5\u03a6\u039f\u03a3|\u039f\u0394\u039f\u03a3 \u039f\u0394\u039f\u03a3. \u03a3|\u1f08\u03c1\u03c7\u03ae \u1f80 \u1f88 \u1fbc \u1ff3|\u0391\u0301 \u0386
\u0130stanbul ISTANBUL \u0131stanbul i\u0307|\u0130\u0130|I\u0307|\u00df STRASSE Stra\u00dfe \u1e9e|\ufb01sh \ufb03 \ufb06 \u01c5 \u01c4 \u01f1 \u0149|\u017fun \u017f|\u00d8RSTED \u0141\u00f3d\u017a \u0110\u1eb7ng
\u041f\u0440\u0438\u0432\u0435\u0442 \u041c\u0418\u0420 \u0439 \u0438\u0306 \u0419|\u04d5 \u0462|\u0546\u0561\u0570\u0561\u0576\u0563 \u0587|\u10d2\u10d0\u10db\u10d0\u10e0\u10ef\u10dd\u10d1\u10d0 \u1c90\u1c91 \u10a0|\u13a0\u13cd \uab70|\U00010400\U00010428 \u2c00 \ua640 \uff21\uff22\uff23 \uff11\uff12 \uff01
\u4e00\u53ea\u732b \u6c34\u5f69\u753b|\u6a2a\u6d5c\u306e\u591c\u666f\u3001\u30a2\u30cb\u30e1\u8abf\u3002|\u30ab\u3099 \u30ac \uff76\uff9e|\u8c48 \uf900 \u2f800 \U0002f800|\U00020000\U0002a6d6 \u3400|\u3105\u3106
\uace0\uc591\uc774 \uadf8\ub9bc|\u1100\u1161\u11a8 \u1112\u1161\u11ab|\u1100 \u1161 \u11a8|\uac00\u11a8 \uac01|\u3131\u3132 \ua960\ud7b0
\u0e41\u0e21\u0e27\u0e2a\u0e35\u0e2a\u0e49\u0e21 \u0e01\u0e33|\u0e40\u0e17\u0e35\u0e48\u0e22\u0e27|\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645 \u0622 \u0627\u0653|\ufe8d\ufefb|\u0634\u0651\u064e \u0634\u064e\u0651|\u05e9\u05b8\u05c1\u05dc\u05d5\u05b9\u05dd
\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e|\u0995\u09cb \u0995\u09c7\u09be|\u0bb5\u0ba3\u0b95\u0bcd\u0b95\u0bae\u0bcd \u0bca|\u0d15\u0d4b\u0d34\u0d3f|\u0c15\u0c4d\u0c37|\u0dc3\u0dd2\u0d82\u0dc4\u0dbd \u0ddd|\u1019\u103c\u1014\u103a\u1019\u102c \u1026|\u1797\u17b6\u179f\u17b6|\u0f56\u0f7c\u0f51|\u1820\u182d
\u1200\u1208\u1361 \u1369|\ua000\ua49a|\u2800\u28ff|\u16a0\u16eb|\U00013000\U00012000|\U0001d400\U0001d56c \U0001d49c|\u2190\u2200\u2500\u25a0\u2660|\u20ac\u00a3\u00a5\u20bf|\u2122\u00a9\u00ae|H\u2082O x\u00b2+y\u00b2 \u00bcm
\u1e37\u0304 l\u0323\u0304 l\u0304\u0323|\u1100\u1161\u0300\u11a8|\u0061\U0001d165\u0301|\u0344\u0301 \u0308\u0301|\u09c7\u0301\u09be|\U00011131\U00011127 \U000114b9\U000114ba \U00011935\U00011930
\U00016ea0\U00010d50\ua7cb\u1c89\ua7dc|\U00030000 \U000323b0 \U0002ebf0|\U0001e030 \U00011f00 \U000105c0 \u088e \U00011380|\u1acf\u0301 a\u1acf\u0323 \u0898\u0323 \U00010efd\u0323
""".strip("\n").replace("\n", "|").split("|")
TEXTS = [json.loads('"' + t.replace('"', '\\"') + '"') if "\\" in t and "C:" not in t else t for t in TEXTS]

# Around the special tokens: glued on, in other cases, broken up.
SPECIAL = [
    "<|endoftext|>", "<|startoftext|>", "a <|endoftext|> b", "a<|endoftext|>b", "a  <|endoftext|>  b", "<|endoftext|><|endoftext|>",
    "<|startoftext|>a cat<|endoftext|>", "<|ENDOFTEXT|>", "a <|EndOfText|> b", "a<|STARTOFTEXT|>b", "!<|ENDOFTEXT|>!", "<|ENDOFTEXT|>!!!",
    "!!!<|STARTOFTEXT|>'s", "x<|ENDOFTEXT|>'sy", "<|endoftext|", "|endoftext|>", "< |endoftext|>", "<|endoftext |>", "<<|endoftext|>>",
    "<|end<|endoftext|>oftext|>", "<|endoftext|>\u0301", "e<|endoftext|>\u0301", "\u00a0<|endoftext|>\u3000x", "<|start\u200boftext|>",
    "<|\uff45ndoftext|>", "<|\u212aNDOFTEXT|>", "hello!", "hello ! world!!", "!hello", "!\u0301", "wow!'s", "</w>", "a</w>b </w> </w",
    "cat</w>", "<cat-toy>", "a <cat-toy> on a mat", "a<cat-toy>b", "a<CAT-TOY>b", " <Cat-Toy> ", "!<cat-toy>!", "<cat-toy><cat-toy>",
    "\u00e9<cat-toy>", "_<cat-toy>", "\u0301<cat-toy>", "<cat-toy>\u200d", "<cat-toy>2", "<cat-toy>-", "Foo foo FOO food afoo", "foo! foo", "two words",
    "two  words", "TWO WORDS two\twords", "\u00e9 caf\u00e9 cafe\u0301 E\u0301", "<cat-toys> <cat-toy", "<cat> <cat-toy-2> <cat-toy>",
]  # fmt: skip

LONG = [
    " ".join(["a red fox in the snow,", "highly detailed"] * 30),
    "supercalifragilistic" * 25,
    "x" * 500,
    "abcdefghij" * 50 + " tail",
    "!" * 300,
    "!?" * 100,
    "1" * 100,
    "\u732b" * 60,
    "\U0001f600" * 40,
    "e\u0301" * 200,
    "a" * 29 + " b",
    " ".join("abcdefghijklmnopqrstuvwxyz"),
    " ".join(["cat"] * 29),
    " ".join(["cat"] * 30),
    " ".join(["cat"] * 31),
    " ".join(["cat"] * 32),
    "cat " * 29 + "\U0001f431",
    "cat " * 28 + "\U0001f431\U0001f600 dog",
    "cat " * 30 + "<|endoftext|> dog",
    "cat " * 29 + "<|startoftext|> dog, \u00fcber",
    "  ".join(["it's"] * 40),
    "<|endoftext|>" * 40,
]

SCRIPTS = [
    (0x20, 0x7E), (0x20, 0x7E), (0x61, 0x7A), (0x0, 0xFF), (0xA0, 0x17F), (0x180, 0x24F), (0x250, 0x36F), (0x300, 0x36F), (0x370, 0x3FF),
    (0x400, 0x52F), (0x530, 0x5FF), (0x600, 0x6FF), (0x700, 0x8FF), (0x900, 0x97F), (0x980, 0xDFF), (0xE00, 0xEFF), (0xF00, 0xFFF), (0x1000, 0x10FF),
    (0x1100, 0x11FF), (0x1200, 0x139F), (0x13A0, 0x16FF), (0x1700, 0x1AFF), (0x1B00, 0x1DFF), (0x1E00, 0x1FFF), (0x2000, 0x20FF), (0x2100, 0x23FF),
    (0x2460, 0x27FF), (0x2C00, 0x2DFF), (0x3000, 0x30FF), (0x3100, 0x33FF), (0x4E00, 0x9FFF), (0xA000, 0xABFF), (0xAC00, 0xD7A3), (0xF900, 0xFAFF),
    (0xFB00, 0xFDFF), (0xFE00, 0xFFFF), (0x10000, 0x10FFF), (0x11000, 0x11FFF), (0x16A00, 0x16FFF), (0x1D000, 0x1D7FF), (0x1E000, 0x1EFFF),
    (0x1F000, 0x1FAFF), (0x20000, 0x3FFFF), (0xE0000, 0xE01EF), (0x0, 0x10FFFF),
]  # fmt: skip

FRAGMENTS = TEXTS + SPECIAL + list(" '!.,-<|>_0123456789") + ["'s", "'ll", " ", "  ", "\u0301", "\u0323", "\u3000", "</w>"] * 3


def random_texts(count, seed):
    chance = random.Random(seed)
    texts = []
    for i in range(count):
        if i % 3 == 0:
            texts.append("".join(chance.choice(FRAGMENTS) for _ in range(chance.randint(2, 5))))
            continue
        chars = []
        for _ in range(chance.randint(1, 4 if i % 3 == 1 else 12)):
            low, high = chance.choice(SCRIPTS)
            chars += [chr(chance.randint(low, high)) for _ in range(chance.randint(1, 4))]
            chars += chance.choice(["", "", " ", "\u0301", "'"])
        texts.append("".join(c for c in chars if not 0xD800 <= ord(c) < 0xE000))
    return texts


# ---- Folders ---------------------------------------------------------------------------------------------------------

NAMES = {
    "bos_token": "<|startoftext|>",
    "eos_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
    "unk_token": "<|endoftext|>",
}


def token(content, **flags):
    return {"content": content, "lstrip": False, "rstrip": False, "single_word": False, **flags}


START, END = NAMES["bos_token"], NAMES["eos_token"]
CONFIG = {"model_max_length": 32, **NAMES}
SLOPPY = {"bos_token": token(START, normalized=True), "eos_token": token(END, normalized=True)}

# Files that take the place of the model's; None takes one away.
VARIANTS = {
    "plain": {},
    "pad_is_a_character": {
        "tokenizer_config.json": {**CONFIG, "model_max_length": 77, "pad_token": "!"},
        "special_tokens_map.json": {**NAMES, "pad_token": "!"},
    },
    "no_config": {"tokenizer_config.json": None, "special_tokens_map.json": None},
    "no_limit": {"tokenizer_config.json": {**CONFIG, "model_max_length": 1000000000000000019884624838656}},
    "special_tokens_as_objects": {
        "special_tokens_map.json": {**SLOPPY, "unk_token": token(END, normalized=True), "pad_token": END},
    },
    "last_definition_holds": {
        "special_tokens_map.json": {
            **SLOPPY,
            "unk_token": token(END, normalized=False),
            "pad_token": token(END, normalized=True),
        },
    },
    "last_definition_is_normalized": {
        "special_tokens_map.json": {**NAMES, "unk_token": token(END, normalized=True)},
    },
    "later_string_holds": {
        "special_tokens_map.json": {
            **SLOPPY,
            "eos_token": token(END, normalized=False),
            "unk_token": token(END, normalized=True),
            "pad_token": END,
        },
    },
    "tagged_object": {
        "tokenizer_config.json": {**CONFIG, "pad_token": {"__type": "AddedToken", **token("!", normalized=True)}},
        "special_tokens_map.json": {},
    },
    "added_tokens_file": {
        "added_tokens.json": {"<cat-toy>": 5520, "Foo": 5519, "two words": 5521, "\u00e9": 165},
    },
    "added_tokens_decoder": {
        "tokenizer_config.json": {
            **CONFIG,
            "added_tokens_decoder": {
                "5517": token(START, normalized=True, special=True),
                "5518": token(END, normalized=False, special=True),
                "5519": token("<cat-toy>", normalized=True, special=False) | {"lstrip": True, "single_word": True},
                "5520": token("Foo", normalized=False, special=False) | {"rstrip": True, "single_word": True},
                "5521": token("<cat-toy", special=False),
                "5522": token("\u0301", normalized=False, special=False),
            },
        },
        "special_tokens_map.json": SLOPPY,
    },
    "additional_special_tokens": {
        "tokenizer_config.json": {**CONFIG, "additional_special_tokens": ["<cat-toy>", "two words", "<cat>"]},
    },
    "extra_named_tokens": {
        "tokenizer_config.json": {**CONFIG, "toy_token": "<cat-toy>", "cls_token": "Foo", "mask_token": "cat"},
    },
    "split_special_tokens": {"tokenizer_config.json": {**CONFIG, "split_special_tokens": True}},
    "reversed_merges": {"merges.txt": "reversed"},
}


def folder_of(files, parent):
    folder = Path(parent) / "tokenizer"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(MODEL, folder)
    for name, content in files.items():
        if content is None:
            (folder / name).unlink()
        elif content == "reversed":
            version, *merges = (folder / name).read_text().splitlines()
            (folder / name).write_text("\n".join([version, *reversed(merges)]) + "\n")
        else:
            (folder / name).write_text(json.dumps(content))
    return folder


def case(tokenizer, text):
    ids = tokenizer(text).input_ids
    padded = tokenizer(text, padding="max_length", truncation=True).input_ids
    limit = min(tokenizer.model_max_length, len(ids))
    truncated = tokenizer.batch_decode([ids[limit - 1 : -1]])[0]
    return {"text": text, "ids": ids, "padded": padded, "truncated": truncated, "decoded": tokenizer.decode(ids)}


def decodings(tokenizer):
    chance = random.Random(3)
    lists = [[], [0], [5518, 5518], [99999], [256, 99999, 320]]
    lists += [[chance.randrange(6000) for _ in range(chance.randint(1, 20))] for _ in range(40)]
    lists += [[chance.randrange(512) for _ in range(chance.randint(1, 20))] for _ in range(20)]
    return [{"ids": ids, "text": tokenizer.decode(ids)} for ids in lists]


def write_cases():
    groups = []
    with tempfile.TemporaryDirectory() as parent:
        for name, files in VARIANTS.items():
            tokenizer = CLIPTokenizer.from_pretrained(folder_of(files, parent))
            texts = TEXTS + SPECIAL + LONG + random_texts(240, 1) if name == "plain" else SPECIAL + random_texts(9, name)
            texts = random_texts(60, 2) + LONG[:4] if name == "reversed_merges" else texts
            limit = tokenizer.model_max_length
            groups.append({
                "name": name,
                "files": files,
                "vocab_size": tokenizer.vocab_size,
                "model_max_length": limit if limit < 10**20 else None,
                "cases": [case(tokenizer, text) for text in dict.fromkeys(texts)],
                "decodings": decodings(tokenizer),
            })  # fmt: skip
            if name == "plain":
                whole = json.loads(tokenizer.backend_tokenizer.to_str())
                (DATA / "tokenizer.json").write_text(json.dumps(whole, ensure_ascii=False, separators=(",", ":")) + "\n")
    lines = json.dumps(groups, separators=(",", ":")).replace('{"text"', '\n{"text"').replace('{"name"', '\n{"name"')
    (DATA / "cases.json").write_text(lines + "\n")


if __name__ == "__main__":
    write_tables()
    DATA.mkdir(parents=True, exist_ok=True)
    write_cases()
