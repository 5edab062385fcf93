#!/usr/bin/env python3
"""Runs the examples of docs/command.md, and writes what they print into the document.

    command_outputs.py LORA            replaces the outputs that changed
    command_outputs.py LORA --check    says which changed, and changes nothing

LORA is the command, build/lora. An example is a fence ```console. Its lines that begin with "$ " are run by a shell in
turn, and the lines below each are what it prints on stdout and stderr. A fence that is not meant to run is marked:
```console sketch. All run in one folder, so that an example can use what one before it wrote. The folder has a link
models to the embedded model, and in.safetensors with input_ids for its text encoder. The Hub is a stub with one
repository, owner/name.

Two outputs are the same if they are equal after the RULES. A line "…" of the document stands for any lines.
"""
import contextlib
import json
import os
import pathlib
import re
import shutil
import struct
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
DOCUMENT = ROOT / "docs/command.md"
SECONDS_FOR_ALL = 300

# What differs from run to run, or from machine to machine, and what stands for it in the comparison.
RULES = [
    (re.compile(r"\b\d+\.\d+ s\b"), "0.00 s"),  # times
    (re.compile(r'"seconds": [\d.e-]+'), '"seconds": 0'),
    (re.compile(r"\b\d+(\.\d+)? (kB|MB|GB)\b"), "0 MB"),  # sizes, also of free memory
    (re.compile(r"\b\d+(\.\d+)? %"), "0 %"),  # shares, which follow from rounding
    (re.compile(r"-?\b\d\.\d{5,6}\b"), "0.000000"),  # the same for measures of likeness
    (re.compile(r"\b[0-9a-f]{40}\b"), "0" * 40),  # commits
]


class Step:
    """A command of an example, and the lines of the document that are its output."""

    def __init__(self, number, command):
        self.number, self.command, self.output = number, command, []


def steps_of(lines):
    """The steps of all examples; `number` is the index of the first line of the output."""
    steps, fence, continued = [], None, False
    for index, line in enumerate(lines):
        if line.startswith("```"):
            fence = line[3:].strip() if fence is None else None
            continued = False
        elif fence != "console":
            continue
        elif continued:
            steps[-1].command += "\n" + line
            steps[-1].number = index + 1
            continued = line.endswith("\\")
        elif line.startswith("$ "):
            steps.append(Step(index + 1, line[2:]))
            continued = line.endswith("\\")
        elif not steps:
            raise ValueError(f"line {index + 1}: an example begins with a line \"$ …\"")
        else:
            steps[-1].output.append(line)
    return steps


def normal(line):
    for pattern, replacement in RULES:
        line = pattern.sub(replacement, line)
    return line.rstrip()


def same(documented, printed):
    """Whether printed lines are what the document has. "…" is any number of lines."""
    if not documented:
        return not printed
    if documented[0] == "…":
        return any(same(documented[1:], printed[skipped:]) for skipped in range(len(printed) + 1))
    return bool(printed) and normal(documented[0]) == normal(printed[0]) and same(documented[1:], printed[1:])


def write_input_ids(file):
    """A safetensors file with zeros as input_ids."""
    tokens = 32
    header = json.dumps({"input_ids": {"dtype": "I64", "shape": [1, tokens], "data_offsets": [0, 8 * tokens]}}).encode()
    file.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8 * tokens))


@contextlib.contextmanager
def hub(folder):
    """The address of a stub of the Hub with the repository owner/name."""
    repository = folder / "owner/name/main"
    (repository / "unet").mkdir(parents=True)
    for name in ("model_index.json", "unet/config.json"):
        shutil.copyfile(ROOT / "models/tiny" / name, repository / name)
    shutil.copyfile(ROOT / "models/loras/ink.safetensors", repository / "ink.safetensors")
    with subprocess.Popen([sys.executable, ROOT / "tests/hub/stub_hub.py", folder], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True) as stub:
        yield json.loads(stub.stdout.readline())["endpoint"]
        stub.stdin.close()


def run(steps, lora):
    """The lines that each step prints."""
    with tempfile.TemporaryDirectory() as folder, hub(pathlib.Path(folder, "hub")) as endpoint:
        home, work = pathlib.Path(folder, "home"), pathlib.Path(folder, "work")
        for made in (home, work):
            made.mkdir()
        (home / "lora").symlink_to(lora)
        (work / "models").symlink_to(ROOT / "models")
        write_input_ids(work / "in.safetensors")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "XDG_"))}
        environment.update(PATH=f"{home}:{os.environ['PATH']}", HOME=str(home), LC_ALL="C.UTF-8", OMP_NUM_THREADS="1",
                           OMP_WAIT_POLICY="passive", HF_ENDPOINT=endpoint)
        for step in steps:
            ran = subprocess.run(["bash", "-c", step.command], cwd=work, env=environment, timeout=SECONDS_FOR_ALL,
                                 stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            text = ran.stdout.decode("utf-8", "replace").replace(str(work) + "/", "").replace(str(home), "~")
            yield [line.rstrip() for line in text.splitlines()]


def changed(lines, lora):
    """(step, printed lines) of the steps whose output differs."""
    steps = steps_of(lines)
    for step, printed in zip(steps, run(steps, lora)):
        if not same(step.output, printed):
            yield step, printed


def main():
    arguments = [word for word in sys.argv[1:] if word != "--check"]
    if len(arguments) != 1 or not pathlib.Path(arguments[0]).exists():
        sys.exit(__doc__)
    lines = DOCUMENT.read_text(encoding="utf-8").splitlines()
    differences = list(changed(lines, pathlib.Path(arguments[0]).resolve()))
    if "--check" in sys.argv:
        for step, printed in differences:
            print(f"{DOCUMENT.relative_to(ROOT)}:{step.number}: $ {step.command}\n  the document has:")
            print("\n".join("    " + line for line in step.output))
            print("  the command prints:")
            print("\n".join("    " + line for line in printed))
        print(f"{len(differences)} outputs differ" if differences else "outputs: in order")
        sys.exit(bool(differences))
    for step, printed in reversed(differences):
        lines[step.number:step.number + len(step.output)] = printed
    if differences:
        DOCUMENT.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(differences)} outputs written")


if __name__ == "__main__":
    main()
