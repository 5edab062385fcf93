#!/usr/bin/env python3
"""Checks rules that a compiler doesn't: the order of the folders in docs/architecture.md, who may include what, what
models may not know, and how long a file may grow."""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
INCLUDE = re.compile(r'^\s*#\s*include\s+(["<])([^">]+)[">]', re.MULTILINE)
OURS = re.compile(r'namespace lora\b|\blora::|"lora/|\blora\.cpp\b')  # names of the project, not of the method
METHOD = re.compile(r"(?<![a-z])lora(?![a-z])", re.IGNORECASE)

# Programs around the library. They may include its public headers and what is in their own folder.
PROGRAMS = ("src/cli", "src/serve", "examples", "bench")


def folder_order():
    text = (ROOT / "docs/architecture.md").read_text()
    lines = re.search(r"^<!-- folder order -->\s*\n((?:`.+\n)+)", text, re.MULTILINE)
    return re.findall(r"`(\w+)`", lines.group(1)) if lines else sys.exit("docs/architecture.md: no <!-- folder order -->")


def sources(*folders):
    for folder in folders:
        for suffix in ("*.h", "*.cpp"):
            yield from sorted((ROOT / folder).rglob(suffix))


def includes(path, quotes='"<'):
    return [name for quote, name in INCLUDE.findall(path.read_text()) if quote in quotes]


def check_includes(order):
    for path in sources("src"):
        name = path.relative_to(ROOT / "src").parts[0]
        if name not in order:
            yield f"{path.relative_to(ROOT)}: src/{name} is not in the folder order of docs/architecture.md"
            continue
        allowed = ["lora", *order[: order.index(name) + 1]]
        for folder in sorted({included.split("/")[0] for included in includes(path, '"') if "/" in included}):
            if folder not in allowed:
                yield f"{path.relative_to(ROOT)}: {name} may not include from {folder}"


def check_programs():
    internal = {path.name for path in (ROOT / "src").iterdir() if path.is_dir()}
    for program in PROGRAMS:
        folder = ROOT / program
        for path in sources(program):
            relative = path.relative_to(ROOT)
            for included in includes(path):
                own = included.split("/")[0] == folder.name or (path.parent / included).is_file()
                inside = included.split("/")[0] in internal or included.startswith("../")
                if inside and not own:
                    yield f"{relative}: may include lora/… and its own headers, not {included}"


def check_models():
    for path in sources("src/models"):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if METHOD.search(OURS.sub("", line)):
                yield f"{path.relative_to(ROOT)}:{number}: a model does not know of LoRA"


def check_lengths():
    for path in sources("include", "src", "tests", "examples", "bench", "fuzz"):
        relative = path.relative_to(ROOT)
        table_or_test = relative.parts[0] == "tests" or path.match("names*.cpp")
        limit = 200 if relative.parts[0] == "include" else 1000 if table_or_test else 600
        lines = path.read_text().count("\n")
        if lines > limit:
            yield f"{relative}: {lines} lines, at most {limit}"


problems = [
    *check_includes(folder_order()),
    *check_programs(),
    *check_models(),
    *check_lengths(),
]
print("\n".join(problems) or "folder order, includes, models and lengths of files: in order")
sys.exit(bool(problems))
